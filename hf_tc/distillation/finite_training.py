# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Training that stops, and writes nothing, once a loss, a gradient or a weight is NaN or infinite.

`Trainer` goes on: by default it logs the loss as if it were the mean of earlier ones (`logging_nan_inf_filter`), clips
with a norm that is NaN, which makes every weight NaN, and keeps that as its newest checkpoint.

On a GPU, Python waits for the gradient norm once in an optimiser step, before the step is taken, and for the loss where
it is logged; that filter, which is off here, waits twice a batch.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from hf_tc.evaluation.finite_outputs import watching_outputs
from hf_tc.teachers.finite_weights import is_finite

LESS_OF_A_STEP = (
    "Begin again, or at an earlier checkpoint, with a lower learning_rate (it is {learning_rate}), longer warm-up or "
    "lower max_grad_norm (it is {max_grad_norm})"
)
MORE_RANGE = "Load the teacher in bfloat16 or float32, or set bf16=True (--bf16) in place of fp16"


class DivergedError(ValueError):
    """A loss, a gradient or a weight of a training is NaN or infinite."""


class FiniteTrainingMixin:
    """For a `Trainer` with a `teacher`: stops before the step whose gradient is not finite, so the weights are good.

    Raises:
        DivergedError: names the step, student or teacher, and the first module whose output is not finite.
    """

    args: Any
    state: Any
    accelerator: Any
    model: Any
    model_wrapped: nn.Module
    teacher: nn.Module | None
    _batches: list[Any]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; what it leaves behind is finite."""
        output = super().train(*args, **kwargs)  # type: ignore[misc]  # Trainer's
        self._check_loss(output.training_loss)
        self._check_weights()
        return output

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; the batches are kept until the next ones, to find out where they went wrong."""
        self._batches, tokens = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        return self._batches, tokens

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        value = norm.item() if isinstance(norm, Tensor) else norm
        if value is not None and not math.isfinite(value) and not self._scaler_skips_the_step():
            self.stop_diverged(f"the gradient norm of step {self.state.global_step + 1} is {value}")
        return norm

    def _scaler_skips_the_step(self) -> bool:
        """With fp16, gradients overflow now and then: such a step is left out and their scale halved."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() >= 1.0

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in `Trainer`, of a finite loss."""
        self._check_loss(logs.get("loss", 0.0))
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As in `Trainer`, for checkpoints too, of finite weights."""
        self._check_weights()
        super().save_model(*args, **kwargs)  # type: ignore[misc]

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            self.stop_diverged(f"the loss is {loss} at step {self.state.global_step}")

    def _check_weights(self) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not is_finite(parameter):
                raise DivergedError(
                    f"Distillation diverged: after step {self.state.global_step} the student's {name} is not finite, "
                    f"and nothing is saved. {self._way_out('student')}."
                )

    def stop_diverged(self, what: str) -> NoReturn:
        """Ends the training for what was found not to be finite, in words."""
        role, where = self._culprit()
        raise DivergedError(f"Distillation diverged: {what}; {where}. {self._way_out(role)}.")

    def _way_out(self, role: str) -> str:
        return MORE_RANGE if role == "teacher" else LESS_OF_A_STEP.format_map(vars(self.args))

    def _culprit(self) -> tuple[str, str]:
        """Student or teacher, and in words where it went wrong, found by running the batches of the step again."""
        models = {"student": self.model} if self.teacher is None else {"teacher": self.teacher, "student": self.model}
        with torch.no_grad(), watching_outputs(models) as found:
            for batch in self._batches:
                self.compute_loss(self.model_wrapped, self._prepare_inputs(batch))  # type: ignore[attr-defined]
                if found:
                    role, name = found[0]
                    return role, f"the first output that is not finite is that of the {role}'s {name}"
        return "student", "all outputs of student and teacher are finite, so it comes from the backward pass"
