# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How close students come to their teacher: the table of the README.

    python -m tests.benchmarks.quality --teacher DIR --calibration books-train.txt --validation books-val.txt

Rows: copied weights, closed form, aligned student and jointly aligned student at each calibration budget (the smallest
in blocks of 256 tokens, as the paper's reference has them), then distillation from the last student. Every student
retains the same layers. Both sides of each ratio are measured on the same tokens in the same run. Seconds are those of
the whole conversion up to the stage.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc import DistillationConfig, DistillationTrainer
from hf_tc.alignment import AlignmentSettings
from hf_tc.calibration.data import read_documents, token_blocks
from hf_tc.conversion_settings import ConversionSettings, joint_settings
from hf_tc.convert_layers import Conversion
from hf_tc.distillation.distill import BlockDataset
from hf_tc.evaluation import Evaluation, evaluate_blocks

SHORT_BUDGET = 4096  # calibration tokens up to which blocks are short
TEXT_TOKENS = 2_000_000  # read of the calibration text; every budget draws its blocks from all of it


def main() -> None:
    options = parse()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher, dtype=torch.float32).to(options.device).eval()
    documents = read_documents(options.calibration)
    validation = token_blocks(
        read_documents(options.validation), tokenizer, options.seq_len, options.validation_blocks * options.seq_len
    )
    print(f"| student | calibration tokens | perplexity | x teacher | KL | seconds |\n|{'---|' * 6}", flush=True)
    student = None
    steps = options.alignment_steps * (1 if len(options.alignment_steps) > 1 else len(options.budgets))
    for budget, alignment_steps in zip(options.budgets, steps, strict=True):
        length = 256 if budget <= SHORT_BUDGET else options.seq_len
        blocks = shuffled(token_blocks(documents, tokenizer, length, TEXT_TOKENS), options.seed)[: budget // length]
        for stage, student, seconds in students(teacher, blocks, alignment_steps, options):
            show(stage, blocks.numel(), evaluate_blocks(student, validation, teacher, batch_size=4), seconds)
    if options.distillation_tokens:
        assert student is not None
        text = shuffled(token_blocks(documents, tokenizer, options.seq_len, TEXT_TOKENS), options.seed + 1)
        seconds = distil(student, teacher, text[: options.distillation_tokens // options.seq_len], options)
        result = evaluate_blocks(student, validation, teacher, batch_size=4)
        show(f"the same, {options.distillation_tokens:,} tokens distilled", options.budgets[-1], result, seconds)


def students(
    teacher: torch.nn.Module, blocks: Tensor, alignment_steps: int, options: argparse.Namespace
) -> Iterator[tuple[str, torch.nn.Module, float]]:
    """(stage, student at that stage, seconds so far): the same student object, with other weights each time."""
    settings = ConversionSettings(
        blocks.numel(),
        blocks.shape[1],
        alignment=AlignmentSettings(steps=alignment_steps),
        joint=joint_settings(options.joint_steps),
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        conversion = Conversion(teacher, blocks, tuple(options.retained), settings, folder)
        yield "copied", conversion.student, 0.0
        start = time.perf_counter()
        conversion.fit_layers()
        seconds = time.perf_counter() - start
        for stage in ("closed_form", "aligned"):
            conversion.load_stage(stage)
            yield stage.replace("_", " "), conversion.student, seconds
        if options.joint_steps:
            start = time.perf_counter()
            conversion.align_jointly()
            yield "jointly aligned", conversion.student, seconds + time.perf_counter() - start


def distil(student: torch.nn.Module, teacher: torch.nn.Module, blocks: Tensor, options: argparse.Namespace) -> float:
    start = time.perf_counter()
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
        trainer = DistillationTrainer(student, teacher, arguments, train_dataset=BlockDataset(blocks))
        trainer.train()
        # Takes the mixed precision off the student's forward: it is measured in float32, as before.
        trainer.accelerator.unwrap_model(student, keep_fp32_wrapper=False)
    return time.perf_counter() - start


def shuffled(blocks: Tensor, seed: int) -> Tensor:
    return blocks[torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))]


def show(stage: str, tokens: int, result: Evaluation, seconds: float) -> None:
    assert result.teacher_perplexity is not None
    ratio = result.perplexity / result.teacher_perplexity
    print(
        f"| {stage} | {tokens:,} | {result.perplexity:.2f} | {ratio:.3f} | {result.kl:.4f} | {seconds:.0f} |",
        flush=True,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--calibration", required=True, help="text that the validation text is not part of")
    parser.add_argument("--validation", required=True)
    parser.add_argument("--retained", type=int, nargs="*", default=[0, 4, 8])
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 65_536])
    parser.add_argument("--alignment-steps", type=int, nargs="+", default=[300], help="of all budgets, or of each")
    parser.add_argument("--joint-steps", type=int, default=150)
    parser.add_argument("--distillation-tokens", type=int, default=1_000_000)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--validation-blocks", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
