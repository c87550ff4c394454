# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A learning rate of its own for what recurrent layers have and their teacher had not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hf_tc.modeling import GatedDeltaNet
from hf_tc.teachers.new_student import is_new_in_mixer


class GateRateMixin:
    """For a `Trainer` whose arguments have `gate_learning_rate`; put before it."""

    args: Any
    model: Any
    optimizer: Any

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """`Trainer`'s, with groups of their own for new parameters, at `gate_learning_rate` if there is one."""
        is_made_here, rate = self.optimizer is None, self.args.gate_learning_rate
        optimizer = super().create_optimizer(model)  # type: ignore[misc]  # Trainer's
        if is_made_here and rate is not None:
            split_groups(optimizer, new_parameters(self.model if model is None else model), rate)
        return optimizer


def check_rates(student: nn.Module, gate_learning_rate: float | None, optimizer: Any) -> None:
    """Raises ValueError for a gate_learning_rate that no parameter would get."""
    if gate_learning_rate is None:
        return
    if optimizer is not None:
        raise ValueError(
            f"gate_learning_rate is {gate_learning_rate}, and the optimizer was given. Set the rates in its groups, or "
            "leave the optimizer to the trainer."
        )
    if not any(weight.requires_grad for weight in new_parameters(student)):
        raise ValueError(
            f"gate_learning_rate is {gate_learning_rate}, and the model has no recurrent layer of hf_tc that trains. "
            "Leave it at None."
        )


def new_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What recurrent layers have and their teacher had not: gates, decay, convolution, norm of the output."""
    mixers = [module for module in model.modules() if isinstance(module, GatedDeltaNet)]
    return [weight for mixer in mixers for name, weight in mixer.named_parameters() if is_new_in_mixer(name)]


def split_groups(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], rate: float) -> None:
    """Gives parameters of an optimizer another learning rate, and leaves their weight decay and all else as it is."""
    wanted = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        chosen = [parameter for parameter in group["params"] if id(parameter) in wanted]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in wanted]
        optimizer.add_param_group({**group, "params": chosen, "lr": rate})
