# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What must not change a run: accumulation, interruption, checkpointing of activations and, nearly, mixed precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_runs import config, logged, train
from library_names import checkpointing_argument, checkpoints_activations
from tiny_causal_lms import labelled_examples, tiny_llama, tiny_qwen3
from torch import Tensor
from transformers import TrainerCallback, set_seed

from hf_tc.distillation import DistillationTrainer


def test_gradient_accumulation_does_not_change_the_trajectory(tmp_path: Path) -> None:
    runs = [
        train(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size) for size in (8, 4, 2)
    ]
    reference = torch.cat([p.detach().flatten() for p in runs[0].model.parameters()])
    for run in runs[1:]:
        assert logged(run, "loss") == pytest.approx(logged(runs[0], "loss"), rel=1e-4)
        assert logged(run, "grad_norm") == pytest.approx(logged(runs[0], "grad_norm"), rel=1e-3)
        weights = torch.cat([p.detach().flatten() for p in run.model.parameters()])
        # Adam divides by the gradient's size, so rounding of tiny gradients moves single weights a little.
        assert (weights - reference).norm() < 1e-3 * (reference - _start()).norm()


def _start() -> Tensor:
    return torch.cat([p.detach().flatten() for p in tiny_llama().parameters()])


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def test_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    def new_trainer(output_dir: Path, callbacks: list[TrainerCallback] | None = None) -> DistillationTrainer:
        return DistillationTrainer(
            model=tiny_llama(attention_dropout=0.2),  # so that the random state matters
            teacher=tiny_qwen3(),
            args=config(output_dir, max_steps=6, save_strategy="steps", save_steps=3, per_device_train_batch_size=2),
            train_dataset=labelled_examples(8),  # four steps are an epoch: the resumed part reshuffles
            callbacks=callbacks,
        )

    straight = new_trainer(tmp_path / "straight")
    straight.train()
    first_half = new_trainer(tmp_path / "halves", [_StopAt(3)])
    first_half.train()
    assert first_half.state.global_step == 3
    set_seed(99)
    second_half = new_trainer(tmp_path / "halves")
    second_half.train(resume_from_checkpoint=str(tmp_path / "halves" / "checkpoint-3"))

    assert second_half.state.global_step == 6
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, second_half.model.state_dict()[name]), name
    assert not torch.equal(straight.model.lm_head.weight, first_half.model.lm_head.weight)


@pytest.mark.parametrize("bf16", [False, True])
def test_gradient_checkpointing_does_not_change_the_loss(tmp_path: Path, bf16: bool) -> None:
    plain = train(tmp_path, max_steps=2, bf16=bf16)
    checkpointed = train(tmp_path, max_steps=2, bf16=bf16, **checkpointing_argument(True))
    assert checkpoints_activations(checkpointed.model)
    assert logged(checkpointed, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-6)
    assert all(parameter.dtype == torch.float32 for parameter in checkpointed.model.parameters())


def test_mixed_precision_is_used_and_close_to_fp32(tmp_path: Path) -> None:
    exact, mixed = train(tmp_path, max_steps=1), train(tmp_path, max_steps=1, bf16=True)
    assert logged(mixed, "loss") != logged(exact, "loss")
    assert logged(mixed, "loss") == pytest.approx(logged(exact, "loss"), rel=0.02)
