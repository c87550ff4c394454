# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""hf_tc against the semantics of Taylor-Calibrate's public reference, on the same text with as many steps.

    python -m tests.benchmarks.reference_baseline --teacher DIR --calibration books-train.txt --validation books-val.txt

Quality: perplexity of both students and the ratio of what each adds to the teacher's. The reference aligns on all of
1,024 tokens at each of 300 steps, hf_tc on a batch of its own size; with more text both take 400 steps of 8,192 tokens.
Ours counts the blocks that it holds out among its tokens. Speed: seconds to fit one layer whose inputs are captured,
closed form and alignment, by hf_tc and by the reference's procedure (value scale from a per-token recurrence, every
step on all tokens). `reference_layer` says what is measured against. About 3.5 minutes on an H100.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tc.calibration.attention_statistics import AttentionStatistics
from hf_tc.calibration.capture_attention import CapturedAttention, LayerStream
from hf_tc.calibration.solve_order import layer_statistics
from hf_tc.config import AlignmentConfig, ConversionConfig
from hf_tc.conversion.layer_by_layer import fit_layers, load_stage
from hf_tc.conversion.run import begin
from hf_tc.conversion.task import ConversionTask
from hf_tc.evaluation.perplexity import evaluate_blocks
from hf_tc.memory.estimate import blocks_at_once
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers
from hf_tc.teachers.new_student import build_student, mixer_of

from .bench import LARGE_BATCHES, Bench, Results, add_bench_arguments, add_retained_argument, clock, parser_of
from .reference_layer import ReferenceLayer, align, calibrate

COLUMNS = ["measured", "calibration tokens", "steps", "reference", "hf_tc", "ratio"]


@dataclass(frozen=True)
class Budget:
    """Text and steps that both sides get; `batch_blocks` None is the reference's full batch."""

    tokens: int
    length: int
    steps: int
    batch_blocks: int | None


PAPER = Budget(1024, 256, 300, None)  # what the reference's phase 2 takes


def main() -> None:
    options = parse()
    bench = Bench(options)
    results = Results(options.out, COLUMNS, benchmark="reference_baseline", retained=options.retained)
    results.heading(f"{results.content['machine']}, {bench.validation.numel():,} validation tokens")
    warm_up(bench, options)
    budgets = [Budget(tokens, 512, options.steps, 8192 // 512) for tokens in options.budgets]
    if options.paper_steps:
        budgets.insert(0, Budget(PAPER.tokens, PAPER.length, options.paper_steps, None))
    for budget in budgets:
        compare_quality(bench, budget, options, results)
    for tokens in options.speed_tokens:
        compare_speed(bench, Budget(tokens, 256, options.speed_steps, None), options, results)


def compare_quality(bench: Bench, budget: Budget, options: argparse.Namespace, results: Results) -> None:
    """Perplexities before and after alignment, excess over the teacher, and seconds for all layers."""
    blocks = bench.blocks(budget.tokens, budget.length)
    ours, our_seconds = our_perplexities(bench, blocks, budget, options)
    reference, seconds = reference_perplexities(bench, blocks, budget, options)
    teacher = ours["teacher"]
    about = {"calibration tokens": budget.tokens, "steps": budget.steps}
    for stage in ("closed_form", "aligned"):
        name = stage.replace("_", " ")
        results.add(measured=f"perplexity, {name}", **about, reference=reference[stage], hf_tc=ours[stage])
        excess = reference[stage] - teacher, ours[stage] - teacher
        row = dict(reference=excess[0], hf_tc=excess[1], ratio=excess[0] / excess[1], teacher=teacher)
        results.add(measured=f"perplexity above the teacher's, {name}", **about, **row)
    row = dict(reference=seconds, hf_tc=our_seconds, ratio=seconds / our_seconds)
    results.add(measured="seconds, all layers", **about, **row)


def our_perplexities(
    bench: Bench, blocks: Tensor, budget: Budget, options: argparse.Namespace
) -> tuple[dict[str, float], float]:
    with tempfile.TemporaryDirectory() as folder:
        task = ConversionTask(bench.teacher, blocks, settings_of(budget, options), Path(folder))
        checkpoint = begin(task, options.retained)
        start, found = clock(), {}
        fit_layers(task, task.settings, checkpoint)
        seconds = clock() - start
        for stage in ("closed_form", "aligned"):
            load_stage(task.student, checkpoint, stage)
            result = evaluate_blocks(task.student, bench.validation, bench.teacher, batch_size=4)
            found[stage] = result.perplexity
            assert result.teacher_perplexity is not None
            found["teacher"] = result.teacher_perplexity
    return found, seconds


def reference_perplexities(
    bench: Bench, blocks: Tensor, budget: Budget, options: argparse.Namespace
) -> tuple[dict[str, float], float]:
    linear = [i for i in range(bench.teacher.config.num_hidden_layers) if i not in options.retained]
    layers: dict[str, list[nn.Module]] = {"closed_form": [], "aligned": []}
    start = clock()
    for index, captured, statistics in captured_layers(bench.teacher, blocks, linear):
        layer = reference_layer(bench.teacher, index, options.seed)
        calibrate(layer, captured, statistics)
        layers["closed_form"].append(copy.deepcopy(layer))
        align(layer, captured, budget.steps, budget.batch_blocks, options.seed + index)
        layers["aligned"].append(layer)
    seconds, found = clock() - start, {}
    for stage, modules in layers.items():
        student = copy.deepcopy(bench.teacher)
        put_in(student, dict(zip(linear, modules, strict=True)))
        found[stage] = evaluate_blocks(student, bench.validation, batch_size=4).perplexity
    return found, seconds


def put_in(model: PreTrainedModel, layers: Mapping[int, nn.Module]) -> None:
    """Has layers of the reference, by number, take the places of the model's attention modules."""
    for index, layer in layers.items():
        decoder_layer = find_decoder_layers(model.base_model)[index]
        setattr(decoder_layer, find_attention(decoder_layer)[0], layer)


def captured_layers(
    teacher: PreTrainedModel, blocks: Tensor, layers: list[int]
) -> Iterator[tuple[int, CapturedAttention, AttentionStatistics]]:
    """(index, what its attention did, statistics of it), one layer at a time."""
    kinds = ["linear_attention"] * teacher.config.num_hidden_layers
    mixers = build_student(teacher, kinds)  # its mixers recompute the teacher's queries and keys
    stream = LayerStream(teacher.base_model, blocks, blocks_at_once(blocks.shape[1]))
    for index in range(max(layers) + 1):
        if index not in layers:
            stream.advance(index)
            continue
        captured = stream.advance_and_capture(index)
        attention = find_attention(find_decoder_layers(teacher.base_model)[index])[1]
        with torch.no_grad():
            statistics = layer_statistics(mixer_of(mixers, index), captured, attention.scaling, None)
        yield index, captured, statistics


def reference_layer(teacher: PreTrainedModel, index: int, seed: int) -> ReferenceLayer:
    attention = find_attention(find_decoder_layers(teacher.base_model)[index])[1]
    return ReferenceLayer(attention, teacher.config, seed + index).to(teacher.device)


def settings_of(budget: Budget, options: argparse.Namespace) -> ConversionConfig:
    batches = {} if budget.batch_blocks is None else LARGE_BATCHES
    alignment = AlignmentConfig(budget.steps, **batches)
    return ConversionConfig(budget.tokens, budget.length, alignment=alignment, seed=options.seed)


def compare_speed(bench: Bench, budget: Budget, options: argparse.Namespace, results: Results) -> None:
    row = seconds_per_layer(bench, budget, options)
    ratio = row["reference"] / row["hf_tc"]
    results.add(
        measured=f"seconds to fit layer {options.speed_layer}",
        **{"calibration tokens": budget.tokens, "steps": budget.steps},
        **row,
        ratio=ratio,
    )


def seconds_per_layer(bench: Bench, budget: Budget, options: argparse.Namespace) -> dict[str, float]:
    """Of the same layer on the same text; capturing its inputs, which is the same work, is left out on both sides."""
    blocks, index = bench.blocks(budget.tokens, budget.length), options.speed_layer
    others = [i for i in range(bench.teacher.config.num_hidden_layers) if i != index]
    with tempfile.TemporaryDirectory() as folder:
        task = ConversionTask(bench.teacher, blocks, settings_of(budget, options), Path(folder))
        checkpoint = begin(task, others)
        fit_layers(task, task.settings, checkpoint)
        ours = checkpoint.row(index).seconds
    _, captured, statistics = next(captured_layers(bench.teacher, blocks, [index]))
    start = clock()
    layer = reference_layer(bench.teacher, index, options.seed)
    calibrate(layer, captured, statistics)
    align(layer, captured, budget.steps, None, options.seed)
    return {"reference": clock() - start, "hf_tc": ours}


def warm_up(bench: Bench, options: argparse.Namespace) -> None:
    """Kernels are compiled and libraries loaded on first use: not part of any figure."""
    seconds_per_layer(bench, Budget(PAPER.tokens, PAPER.length, 3, None), options)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="reference_baseline.json")
    add_bench_arguments(parser)
    add_retained_argument(parser)
    parser.add_argument("--paper-steps", type=int, default=300, help="full-batch steps on 1,024 tokens; 0: none")
    parser.add_argument("--budgets", type=int, nargs="*", default=[65_536], help="tokens of the larger comparisons")
    parser.add_argument("--steps", type=int, default=400, help="minibatch steps of the larger comparisons")
    parser.add_argument("--speed-tokens", type=int, nargs="*", default=[1024, 16_384])
    parser.add_argument("--speed-steps", type=int, default=300)
    parser.add_argument("--speed-layer", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
