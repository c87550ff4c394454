# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many distilled tokens a student needs to come within a target of its teacher, from three starts.

    python -m tests.benchmarks.distilled_tokens --teacher DIR --student STUDENT --data wiki.txt=0.1 books.txt=0.9 \
        --text wiki-test.txt --lambada lambada_openai_test.jsonl [--plot FILE.png]

copied: mixers with the teacher's projections, nothing solved. reference: what the paper's public reference comes to,
see `reference_layer`, on the larger budget of `reference_baseline`. ours: the student in a folder. All retain its
layers, see the same blocks in the same order and train whole by the recipe `fast`. Its schedule, 5 % warm-up and a
cosine, spans all of --tokens, as a user has it, wherever on it the target is met. What the starts were made
with does not count: calibration text, and the joint alignment of ours, which is 12 million tokens of the same kind of
learning by default. For starts without it, give a student made with --joint-steps 0.

Perplexity is over 32 x 1,024 tokens, LAMBADA the share of texts whose last word is the model's own, and by how many
nats that word is less likely than to the teacher; in bfloat16 on a GPU, as training is. They are measured from a
ninetieth of all tokens on, twice a doubling, and a run ends where perplexity and share meet their targets. Seconds are
those of training steps alone. A run that stops half-way leaves its rows; `distilled_tokens_plot` puts those of several
files together.
"""

import argparse
import copy
import hashlib
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PrinterCallback, TrainerCallback

from hf_tc import DistillationConfig, DistillationTrainer, HybridGDNForCausalLM
from hf_tc.config import MixerConfig
from hf_tc.data.mixture import blocks_of_sources, data_of_words, sources_of
from hf_tc.data.repeating_rows import with_repeats
from hf_tc.data.token_blocks import read_documents, token_blocks
from hf_tc.distillation.finite_training import DivergedError
from hf_tc.distillation.recipes import settings_of
from hf_tc.evaluation.lm_head import NotFiniteError
from hf_tc.teachers.new_student import build_student

from .bench import Results, parser_of
from .distilled_tokens_measures import LAMBADA, PERPLEXITY, Measures
from .distilled_tokens_plot import COLUMNS, is_met, show
from .reference_baseline import captured_layers, put_in, reference_layer
from .reference_layer import align, calibrate

HALF_DOUBLINGS = 14  # between the first measurement of a training and its end, at 1 / 90 and at 1
REFERENCE_LENGTH, REFERENCE_BATCH = 512, 16  # tokens of a block, blocks of a step, as in `reference_baseline`
STARTS = ("copied", "reference", "ours")


def main() -> None:
    options = parse()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher, dtype="auto").to(options.device).eval()
    measures = Measures(teacher, tokenizer, options.text, options.lambada, options.lambada_rows)
    about = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "teacher": [*measures.teacher.values()],
    }
    targets = {PERPLEXITY: options.target, LAMBADA: options.lambada_target}
    results = Results(options.out, COLUMNS, benchmark="distilled_tokens", targets=targets, **about)
    blocks = kept_blocks(tokenizer, options)
    results.heading(
        f"{results.content['machine']}; the teacher has a perplexity of {measures.teacher[PERPLEXITY]:.2f} and "
        f"{measures.teacher[LAMBADA]:.3f} of LAMBADA"
    )
    for name in options.starts:
        start = start_of(name, teacher, tokenizer, options)
        for rate in options.rates:
            trainer = trainer_of(copy.deepcopy(start), teacher, blocks, rate, options)
            curve = Curve(trainer, measures, results, {"start": name, "learning rate": rate}, options.to_end)
            try:
                if not curve.is_enough():
                    trainer.add_callback(curve)
                    trainer.train()
            except (DivergedError, NotFiniteError) as error:
                print(f"{name} at a learning rate of {rate:g}: {error}", flush=True)
    if options.save:
        student = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        student.to(start.dtype).save_pretrained(options.save)
    show(results.content["rows"], targets, options.plot)


def training_blocks(data: Any, tokenizer: Any, length: int, tokens: int) -> Tensor:
    """Token ids `[tokens // length, length]`, the sources evenly spread; a source that is too short repeats."""
    sources, parts = sources_of(data), []
    for source, count in zip(sources, blocks_of_sources(sources, tokens // length), strict=True):
        blocks = token_blocks(read_documents(source.data, count * length), tokenizer, length, count * length)
        generator, passes = torch.Generator().manual_seed(0), math.ceil(count / len(blocks))
        order = torch.cat([torch.randperm(len(blocks), generator=generator) for _ in range(passes)])[:count]
        parts.append(blocks[order])
        print(f"{source.name}: {count * length:,} tokens, each {count / len(blocks):.2f} times", flush=True)
    places = torch.cat([(torch.arange(len(part)) + 0.5) / len(part) for part in parts])
    return torch.cat(parts)[places.argsort(stable=True)]


def kept_file(name: str, options: argparse.Namespace, *about: Any) -> Path | None:
    """Where something is kept that is made of teacher and data, and depends on what else is given."""
    given = repr((options.teacher, options.data, *about))
    digest = hashlib.sha256(given.encode()).hexdigest()[:12]
    return options.kept and options.kept / f"{name}-{digest}.safetensors"


def kept_blocks(tokenizer: Any, options: argparse.Namespace) -> Tensor:
    """The blocks of all runs, read where they are kept: tens of millions of tokens take a minute or more to make."""
    file = kept_file("blocks", options, options.tokens, options.length)
    if file and file.exists():
        return load_file(file)["blocks"].long()
    blocks = training_blocks(options.data, tokenizer, options.length, options.tokens)
    if file:
        options.kept.mkdir(parents=True, exist_ok=True)
        save_file({"blocks": blocks.int()}, file)
    return blocks


def start_of(name: str, teacher: PreTrainedModel, tokenizer: Any, options: argparse.Namespace) -> PreTrainedModel:
    """The student that a start is, on the CPU or beside the teacher."""
    ours = HybridGDNForCausalLM.from_pretrained(options.student, dtype="auto")
    if name == "ours":
        return ours
    torch.manual_seed(options.seed)
    if name == "copied":
        fields = MixerConfig("qwen3_5").fields(teacher.config)  # which sets all there are
        return build_student(
            teacher, ours.config.layer_types, config_kwargs={field: getattr(ours.config, field) for field in fields}
        )
    exact = copy.deepcopy(teacher).float()  # what is measured against computes in float32
    layers = reference_layers(exact, ours.config.linear_layers, tokenizer, options)
    for layer in layers.values():
        layer.train_end_to_end()
    put_in(exact, {int(index): layer for index, layer in layers.items()})
    return exact


def reference_layers(teacher: PreTrainedModel, linear: list[int], tokenizer: Any, options: argparse.Namespace) -> Any:
    """By the number of its layer, each calibrated and aligned layer of the reference; read where they are kept."""
    layers = nn.ModuleDict({str(index): reference_layer(teacher, index, options.seed) for index in linear})
    file = kept_file("reference", options, linear, options.reference_tokens, options.reference_steps, options.seed)
    if file and file.exists():
        load_model(layers, file)
        return layers
    blocks = training_blocks(options.data, tokenizer, REFERENCE_LENGTH, options.reference_tokens)
    for index, captured, statistics in captured_layers(teacher, blocks, linear):
        layer: Any = layers[str(index)]
        calibrate(layer, captured, statistics)
        align(layer, captured, options.reference_steps, REFERENCE_BATCH, options.seed + index)
    if file:
        save_model(layers, str(file))
    return layers


class Curve(TrainerCallback):
    """Adds a row at the steps that are due, and ends training once both targets are met."""

    def __init__(
        self,
        trainer: DistillationTrainer,
        measures: Measures,
        results: Results,
        about: dict[str, Any],
        to_end: bool,
    ) -> None:
        self.trainer, self.measures, self.results = trainer, measures, results
        self.about, self.to_end = about, to_end

    def is_enough(self) -> bool:
        """Adds a row; whether training need not go on."""
        throughput, tokens = self.trainer.throughput, int(self.trainer.state.num_input_tokens_seen)
        speed = {"seconds": throughput.seconds, "tokens/s": throughput.tokens_per_second or ""}
        row = {**self.about, "tokens": tokens, **self.measures.over_the_teacher(self.trainer.model), **speed}
        self.results.add(**row)
        return is_met(row, self.results.content["targets"]) and not self.to_end

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures twice a doubling of tokens, and at the end."""
        due = {math.ceil(state.max_steps / 2 ** (half / 2)) for half in range(HALF_DOUBLINGS)}
        if state.global_step in due:
            control.should_training_stop |= self.is_enough()


def trainer_of(
    student: PreTrainedModel, teacher: PreTrainedModel, blocks: Tensor, rate: float, options: argparse.Namespace
) -> DistillationTrainer:
    rows = options.batch_tokens // options.length
    at_once = min(rows, options.batch_size)
    settings = settings_of("fast") | {
        "learning_rate": rate,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": rows // at_once,
        "train_sampling_strategy": "sequential",  # blocks are in their order already
        "bf16": options.device != "cpu",
        "use_cpu": options.device == "cpu",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": options.seed,
        **options.settings,
    }
    repeated = settings.pop("repeated_passages")  # blocks are made here, and so are their repeats
    arguments = DistillationConfig(output_dir=tempfile.mkdtemp(), **settings)
    whole = ({"input_ids": block} for block in blocks[: len(blocks) // rows * rows])
    data = list(with_repeats(whole, repeated, options.seed))
    trainer = DistillationTrainer(student, teacher, arguments, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    return trainer


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="distilled_tokens.json")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True, help="folder of the student that ours is")
    parser.add_argument("--data", nargs="+", required=True, help="as in `hf-tc convert --data`; files, nothing sampled")
    parser.add_argument("--text", required=True, help="to measure perplexity on, not among the data")
    parser.add_argument("--lambada", type=Path, required=True, help="JSON lines with a text each")
    parser.add_argument("--lambada-rows", type=int, default=1000)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3], help="the best one counts")
    parser.add_argument("--tokens", type=int, default=20_000_000, help="at most; what the schedule spans")
    parser.add_argument("--settings", nargs="+", default=[], metavar="FIELD=VALUE", help="of `DistillationConfig`")
    parser.add_argument("--target", type=float, default=1.10, help="perplexity over the teacher's")
    parser.add_argument("--lambada-target", type=float, default=0.85, help="share of the teacher's")
    parser.add_argument("--to-end", action="store_true", help="train on all tokens, targets met or not")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch-tokens", type=int, default=32_768, help="of a step")
    parser.add_argument("--batch-size", type=int, default=16, help="blocks at once, as memory allows")
    parser.add_argument("--reference-tokens", type=int, default=65_536, help="that the reference calibrates on")
    parser.add_argument("--reference-steps", type=int, default=400)
    parser.add_argument(
        "--kept",
        type=Path,
        help="folder for blocks and the reference's layers, made once",
    )
    parser.add_argument("--save", type=Path, help="folder for the last student")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.data = data_of_words(options.data)
    options.settings = {name: yaml.safe_load(value) for name, _, value in (x.partition("=") for x in options.settings)}
    rows = options.batch_tokens // options.length
    if rows < 1 or rows % min(rows, options.batch_size):
        parser.error(f"a step has {rows} blocks, no multiple of --batch-size {options.batch_size}.")
    if options.tokens < rows * options.length:
        parser.error(f"--tokens {options.tokens} is less than a step of {rows * options.length}.")
    if options.save and options.starts[-1] == "reference":
        parser.error("--save keeps the last student, and one of the reference can be loaded nowhere. Put it first.")
    return options


if __name__ == "__main__":
    main()
