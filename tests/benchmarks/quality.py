# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How close students come to their teacher: the first table of tests/benchmarks/README.md.

    python -m tests.benchmarks.quality --teacher DIR --calibration books-train.txt --validation books-val.txt

Rows: copied weights, closed form, aligned student and jointly aligned student at each calibration budget (the smallest
in blocks of 256 tokens, as the paper's reference has them), then distillation from the last student. Every student
retains the same layers. Both sides of each ratio are measured on the same tokens in the same run. Seconds are those of
the whole conversion up to the stage.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from hf_tc import DistillationConfig, DistillationTrainer
from hf_tc.config import AlignmentConfig, ConversionConfig, JointConfig
from hf_tc.conversion.layer_by_layer import fit_layers, load_stage
from hf_tc.conversion.run import begin, joint_budget, joint_stage
from hf_tc.conversion.task import ConversionTask
from hf_tc.evaluation.perplexity import evaluate_blocks

from .bench import Bench, Results, add_bench_arguments, add_retained_argument, clock, parser_of

STEPS = ("alignment_steps", "joint_steps")
SHORT_BUDGET = 4096  # calibration tokens up to which blocks are short
COLUMNS = [
    "student",
    "calibration tokens",
    "alignment steps",
    "joint steps",
    "perplexity",
    "x teacher",
    "KL",
    "seconds",
]


def main() -> None:
    options = parse()
    bench = Bench(options)
    results = Results(options.out, COLUMNS, benchmark="quality", retained=options.retained)
    results.heading(f"{results.content['machine']}, {bench.validation.numel():,} validation tokens")
    student = None
    for budget, aligned, joint in zip(options.budgets, *(each(options, name) for name in STEPS), strict=True):
        blocks = bench.blocks(budget, 256 if budget <= SHORT_BUDGET else 1024)
        settings = ConversionConfig(
            blocks.numel(),
            blocks.shape[1],
            alignment=AlignmentConfig(steps=aligned),
            joint=JointConfig(joint),
            seed=options.seed,
        )
        for stage, student, seconds in students(bench.teacher, blocks, settings, options.retained):
            show(bench, results, stage, student, settings, seconds)
    if options.distillation_tokens:
        assert student is not None
        seconds = distil(student, bench.teacher, bench.blocks(options.distillation_tokens, 1024), options)
        stage = f"the same, {options.distillation_tokens:,} tokens distilled"
        show(bench, results, stage, student, settings, seconds)


def each(options: argparse.Namespace, name: str) -> list[int]:
    """Steps of each budget: one number stands for all."""
    steps: list[int] = getattr(options, name)
    return steps * len(options.budgets) if len(steps) == 1 else steps


def students(
    teacher: PreTrainedModel, blocks: Tensor, settings: ConversionConfig, retained: list[int]
) -> Iterator[tuple[str, PreTrainedModel, float]]:
    """(stage, student at that stage, seconds so far): the same student object, with other weights each time."""
    with tempfile.TemporaryDirectory() as folder:
        task = ConversionTask(teacher, blocks, settings, Path(folder))
        checkpoint = begin(task, retained)
        yield "copied", task.student, 0.0
        start = clock()
        fit_layers(task, settings, checkpoint)
        seconds = clock() - start
        for stage in ("closed_form", "aligned"):
            load_stage(task.student, checkpoint, stage)
            yield stage.replace("_", " "), task.student, seconds
        if settings.joint.steps:
            start = clock()
            joint_stage(task, checkpoint, joint_budget(task))
            yield "jointly aligned", task.student, seconds + clock() - start


def distil(student: PreTrainedModel, teacher: PreTrainedModel, blocks: Tensor, options: argparse.Namespace) -> float:
    start = clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            bf16=True,
            use_cpu=options.device == "cpu",
            save_strategy="no",
            report_to="none",
            seed=options.seed,
        )
        trainer = DistillationTrainer(
            student, teacher, arguments, train_dataset=[{"input_ids": block} for block in blocks]
        )
        trainer.train()
        # Takes the mixed precision off the student's forward: it is measured in float32, as before.
        trainer.accelerator.unwrap_model(student, keep_fp32_wrapper=False)
    return clock() - start


def show(
    bench: Bench, results: Results, stage: str, student: PreTrainedModel, settings: ConversionConfig, seconds: float
) -> None:
    found = evaluate_blocks(student, bench.validation, bench.teacher, batch_size=4)
    assert found.teacher_perplexity is not None
    row = {"student": stage, "calibration tokens": settings.calibration_tokens, "perplexity": found.perplexity}
    row |= {"alignment steps": settings.alignment.steps, "joint steps": settings.joint.steps, "seconds": seconds}
    results.add(**row, **{"x teacher": found.perplexity / found.teacher_perplexity, "KL": found.kl})


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, out="quality.json")
    add_bench_arguments(parser)
    add_retained_argument(parser)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 65_536])
    parser.add_argument(
        "--alignment-steps", type=int, nargs="+", default=[AlignmentConfig.steps], help="of all budgets, or of each"
    )
    parser.add_argument("--joint-steps", type=int, nargs="+", default=[150], help="of all budgets, or of each")
    parser.add_argument("--distillation-tokens", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
