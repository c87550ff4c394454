# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The divergence by TRL's kernels (1.16 and newer), where it is installed and both heads are bare linear layers.

At a vocabulary of 151,936 they take as long as `chunked_objective`, the plain form, and a tenth less memory, since they
cut it as well as the tokens. A frozen head is left to the plain form: they compute logits again in the backward.
Source: trl/kernels/chunked_divergence.py, whose generalised JSD is that of `kd_loss`, without T^2.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_tc.evaluation.kd_loss import LazyLogits, Objective
from hf_tc.evaluation.linear_head import LinearHead
from hf_tc.evaluation.top_k import TopK
from hf_tc.modeling.kernel_checks import kernel_is_right


def heads_of(
    student: LazyLogits, teacher: LazyLogits | TopK, objective: Objective
) -> tuple[LinearHead, LinearHead] | None:
    """The heads of student and teacher, where TRL's kernels compute this loss: both bare and on one GPU, the student's
    trained, and nothing beside the divergence. Not in float16, whose gradients they do not scale."""
    if isinstance(teacher, TopK) or student.linear is None or teacher.linear is None or objective.ce_weight:
        return None
    weights = student.linear.weight, teacher.linear.weight
    fit = (
        torch.is_grad_enabled()
        and weights[0].requires_grad
        and all(type(weight) in (Tensor, nn.Parameter) and weight.is_cuda for weight in weights)
        and len({x.device for x in (*weights, student.hidden_states, teacher.hidden_states)}) == 1
        and (dtype := _computed_in(student.hidden_states)) in (torch.float32, torch.bfloat16)
        and function() is not None
        and _is_right(weights[0].device, dtype)
    )
    return (student.linear, teacher.linear) if fit else None


def per_token(student: LinearHead, hidden: Tensor, teacher: LinearHead, taught: Tensor, objective: Objective) -> Tensor:
    """T^2 * D of each row of hidden states `[N, C]`, `[N]` in float32 and nats; the widths C may differ."""
    beta = {"forward_kl": 0.0, "reverse_kl": 1.0}.get(objective.divergence, objective.jsd_beta)
    found, _ = function().apply(hidden, *student, taught, *teacher, beta, objective.temperature)
    return found * objective.temperature**2


@functools.cache
def function() -> Any:
    """TRL's autograd function; None where it is not installed, or does not import."""
    try:
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    except ImportError:
        return None
    return ChunkedDivergenceFunction


def _computed_in(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


@functools.cache
def _is_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether TRL's release gives the plain form's numbers here, see `kernel_checks`."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = {"hidden": (4, 64), "weight": (5000, 64), "taught": (4, 64), "teacher": (5000, 64)}
    drawn = {name: torch.randn(shape, generator=generator, device=device).to(dtype) for name, shape in shapes.items()}
    taught, teacher, objective = drawn.pop("taught"), drawn.pop("teacher"), Objective(temperature=2.0)

    def of_trl(hidden: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (per_token(LinearHead(weight), hidden, LinearHead(teacher), taught, objective),)

    def plain(hidden: Tensor, weight: Tensor) -> tuple[Tensor]:
        logits = F.linear(hidden.float(), weight.float())
        return (objective.softened(logits, F.linear(taught.float(), teacher.float())),)

    return kernel_is_right("TRL's divergence", of_trl, plain, drawn, training=True)
