# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Needle retrieval, student against teacher, at 1, 2 and 4 times a base length and five depths.

    python -m tests.benchmarks.long_context [--teacher-folder DIR]

Trains a small Qwen3 that answers at all three lengths (about two minutes on a CPU), or takes it from --teacher-folder,
where it lies from an earlier run. Then converts it at each share of retained layers,
with and without RoPE in the recurrent layers, on calibration texts of each length given. Each figure is the share of
texts whose question is answered right; a guess is right once in as many times as there are values.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from hf_tc.config import LAYER_POLICIES, AlignmentConfig, ConversionConfig, MixerConfig, SelectionConfig
from hf_tc.conversion.choose_layers import choose_layers
from hf_tc.conversion.layer_by_layer import fit_layers, load_stage
from hf_tc.conversion.run import begin
from hf_tc.conversion.task import ConversionTask

from .bench import LARGE_BATCHES, Results, clock, parser_of
from .needle_task import NeedleTask, accuracy
from .needle_teacher import LENGTH_FACTORS, Recipe, needle_texts, train

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = ["model", "retained", "RoPE", "calibrated at", "length", *(f"depth {depth:g}" for depth in DEPTHS), "mean"]
TASK = NeedleTask(filler=32, keys=32, values=32)
RECIPE = Recipe(layers=4, hidden=64, head_dim=32, base_length=256, steps=800, batch_tokens=8192, learning_rate=2e-3)


def main() -> None:
    options = parse()
    teacher = trained_teacher(options)
    results = Results(options.out, COLUMNS, benchmark="long_context", shares=options.shares)
    results.heading(f"{results.content['machine']}, accuracy over {options.texts} texts for each length and depth")
    probes = probe_texts(options)
    show(teacher, probes, results, model="teacher", retained=RECIPE.layers, RoPE="", **{"calibrated at": ""})
    for factor in options.calibration_factors:
        blocks = calibration_blocks(options.calibration_tokens, factor * RECIPE.base_length, options.seed)
        for share in options.shares:
            for rope in options.rope:
                measure_students(teacher, blocks, share, rope == "on", probes, options, results)


def trained_teacher(options: argparse.Namespace) -> PreTrainedModel:
    """From the folder if it is there, else trained and, if a folder is named, saved in it."""
    folder = options.teacher_folder
    if folder is not None and (folder / "config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(options.device).eval()
    teacher = train(TASK, RECIPE, options.device, options.seed)
    if folder is not None:
        teacher.save_pretrained(folder)
    return teacher


def measure_students(
    teacher: PreTrainedModel,
    blocks: Tensor,
    share: float,
    rope: bool,
    probes: dict[int, list[Tensor]],
    options: argparse.Namespace,
    results: Results,
) -> None:
    """One conversion, asked at every stage."""
    settings = ConversionConfig(
        blocks.numel(),
        blocks.shape[1],
        alignment=AlignmentConfig(options.alignment_steps, **LARGE_BATCHES),
        mixer=MixerConfig(recurrent_rope=rope),
        seed=options.seed,
        selection=SelectionConfig(share, options.policy),
    )
    with tempfile.TemporaryDirectory() as folder:
        task = ConversionTask(teacher, blocks, settings, Path(folder))
        retained = choose_layers(task).retained_layers
        checkpoint, start = begin(task, retained), clock()
        fit_layers(task, settings, checkpoint)
        about = {"retained": ",".join(map(str, retained)), "RoPE": "on" if rope else "off"}
        about |= {"calibrated at": blocks.shape[1], "seconds": clock() - start}
        for stage in ("closed_form", "aligned"):
            load_stage(task.student, checkpoint, stage)
            errors = [getattr(checkpoint.row(i), f"error_{stage}") for i in task.student.config.linear_layers]
            show(task.student, probes, results, model=stage.replace("_", " "), layer_errors=errors, **about)


def calibration_blocks(tokens: int, length: int, seed: int) -> Tensor:
    """Texts of the kind the teacher was trained on, of other seeds than its training and the probe, `[N, length]`."""
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.cat([needle_texts(TASK, 1, length, generator) for _ in range(tokens // length)])


def probe_texts(options: argparse.Namespace) -> dict[int, list[Tensor]]:
    """For each length, texts for each depth."""
    generator = torch.Generator().manual_seed(options.seed + 200)
    lengths = [RECIPE.base_length * factor for factor in LENGTH_FACTORS]
    return {n: [TASK.texts(options.texts, n, generator, depth=depth) for depth in DEPTHS] for n in lengths}


def show(asked: nn.Module, probes: dict[int, list[Tensor]], results: Results, **about: object) -> None:
    for length, texts in probes.items():
        found = [accuracy(asked, text) for text in texts]
        by_depth = {f"depth {depth:g}": x for depth, x in zip(DEPTHS, found, strict=True)}
        results.add(**about, length=length, **by_depth, mean=sum(found) / len(found))


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="long_context.json")
    parser.add_argument("--teacher-folder", type=Path, help="where the teacher is kept between runs")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument(
        "--policy", choices=LAYER_POLICIES, help="which layers are retained; the default policy by default"
    )
    parser.add_argument("--rope", nargs="+", choices=["on", "off"], default=["on", "off"])
    parser.add_argument("--calibration-factors", type=int, nargs="+", default=[4], help="lengths, in base lengths")
    parser.add_argument("--calibration-tokens", type=int, default=65_536)
    parser.add_argument("--alignment-steps", type=int, default=200)
    parser.add_argument("--texts", type=int, default=200, help="texts for each length and depth")
    return parser.parse_args()


if __name__ == "__main__":
    main()
