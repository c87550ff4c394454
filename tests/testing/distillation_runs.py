# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Short distillations of tiny models, and the objective written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from torch import Tensor, nn

from hf_tc.distillation import DistillationConfig, DistillationTrainer


def config(output_dir: Path, **changes: Any) -> DistillationConfig:
    defaults = {
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_steps": 4,
        "logging_steps": 1,
        "lr_scheduler_type": "linear",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
        "chunk_tokens": 5,
    }
    return DistillationConfig(output_dir=str(output_dir), **{**defaults, **changes})


def train(
    output_dir: Path, student: Any = None, teacher: Any = None, count: int = 32, **changes: Any
) -> DistillationTrainer:
    trainer = DistillationTrainer(
        model=tiny_llama() if student is None else student,
        teacher=tiny_qwen3() if teacher is None else teacher,
        args=config(output_dir, **changes),
        train_dataset=labelled_examples(count),
    )
    trainer.train()
    return trainer


def one_step(student: Any, teacher: Any, output_dir: Path) -> DistillationTrainer:
    return train(output_dir, student, teacher, count=4, max_steps=1)


def logged(trainer: DistillationTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def hand_written_mean_loss(
    student: nn.Module, teacher: nn.Module, examples: list[dict[str, Tensor]], temperature: float, share: float
) -> Tensor:
    """Sum over labelled tokens of all examples, one example at a time, divided by their number."""
    total, tokens = torch.tensor(0.0), 0
    for example in examples:
        input_ids, labels = example["input_ids"][None], example["labels"]
        student_logits, teacher_logits = student(input_ids).logits[0], teacher(input_ids).logits[0].detach()
        for position in range(len(labels) - 1):
            if labels[position + 1] == -100:
                continue
            log_q = F.log_softmax(student_logits[position] / temperature, -1)
            log_p = F.log_softmax(teacher_logits[position] / temperature, -1)
            kl = temperature**2 * (log_p.exp() * (log_p - log_q)).sum()
            nll = F.cross_entropy(student_logits[position], labels[position + 1])
            total = total + (1 - share) * kl + share * nll
            tokens += 1
    return total / tokens
