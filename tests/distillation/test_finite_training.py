# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A run that diverges stops with one line that says where, and leaves nothing that is not finite."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from distillation_runs import config, logged, train
from safetensors.torch import load_file
from tiny_causal_lms import tiny_llama, tiny_qwen3
from torch import nn
from transformers import TrainerCallback

from hf_tc.distillation.finite_training import DivergedError


class BreaksAt(nn.Module):
    """Gives its input until the n-th call in training, then infinity; or only its gradient is infinite."""

    def __init__(self, inner: nn.Module, call: int, in_backward: bool = False) -> None:
        super().__init__()
        self.inner, self.call, self.in_backward, self.calls = inner, call, in_backward, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        self.calls += output.shape[1] > 2  # not the two tokens on which the split is checked
        if self.calls < self.call:
            return output
        if self.in_backward:
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient * math.inf)
            return output
        return output * math.inf


def broken(model: Any, call: int, in_backward: bool = False) -> Any:
    layer = model.model.layers[1]
    layer.mlp = BreaksAt(layer.mlp, call, in_backward)
    return model


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_the_first_output_that_is_not_finite_is_named(
    tmp_path: Path, role: str, accumulation: int, max_grad_norm: float
) -> None:
    models = {"student": tiny_llama(), "teacher": tiny_qwen3()}
    broken(models[role], call=3 * accumulation)
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "max_steps": 6}
    where = rf"gradient norm of step 3 is (nan|inf); .* of the {role}'s model\.layers\.1\.mlp\. "
    with pytest.raises(DivergedError, match=where) as error:
        train(
            tmp_path,
            **models,
            max_grad_norm=max_grad_norm,
            gradient_accumulation_steps=accumulation,
            **settings,
        )
    assert ("learning_rate (it is 0.01)" if role == "student" else "Load the teacher in") in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


def test_the_weights_are_those_before_the_step(tmp_path: Path) -> None:
    student = broken(tiny_llama(), call=1, in_backward=True)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(DivergedError, match=r"step 1 .* outputs of student and teacher are finite, .* backward pass"):
        train(tmp_path, student)
    assert all(torch.equal(before[name], weight) for name, weight in student.state_dict().items())


def test_a_loss_that_is_not_finite_is_not_logged(tmp_path: Path) -> None:
    trainer = train(tmp_path, max_steps=1)
    assert logged(trainer, "loss")
    with pytest.raises(DivergedError, match="the loss is inf at step 1"):
        trainer.log({"loss": math.inf})
    assert len(logged(trainer, "loss")) == 1


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    class Spoils(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                model.model.norm.weight.data[3] = math.nan

    trainer = train(tmp_path, max_steps=1)
    trainer.add_callback(Spoils())
    trainer.args.max_steps = 2
    with pytest.raises(DivergedError, match=r"after step 2 the student's model\.norm\.weight is not finite"):
        trainer.train()
    with pytest.raises(DivergedError, match="nothing is saved"):
        trainer.save_model(str(tmp_path / "student"))
    assert not (tmp_path / "student").exists()


def test_overflow_under_a_scale_that_can_be_lowered_is_no_divergence(tmp_path: Path) -> None:
    trainer = train(tmp_path, max_steps=1)
    overflow = torch.tensor(math.inf)
    trainer.accelerator.scaler = SimpleNamespace(get_scale=lambda: 65536.0)
    assert trainer._get_grad_norm(trainer.model, overflow) == math.inf
    trainer.accelerator.scaler = SimpleNamespace(get_scale=lambda: 0.5)
    with pytest.raises(DivergedError, match="the gradient norm of step 2 is inf"):
        trainer._get_grad_norm(trainer.model, overflow)


def test_the_filter_of_the_library_is_off(tmp_path: Path) -> None:
    assert not config(tmp_path).logging_nan_inf_filter
    with pytest.raises(ValueError, match="logging_nan_inf_filter=True would log"):
        config(tmp_path, logging_nan_inf_filter=True)
