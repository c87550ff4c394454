# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The distillation loss over token chunks, its gradients taken while a chunk's logits are there.

So no logits are kept for the backward pass or computed again in it: a step takes four products with a head's weights,
as it does with all logits in memory. In return it has to be known beforehand how tokens are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from hf_tc.evaluation import trl_divergence
from hf_tc.evaluation.kd_loss import LazyLogits, Objective, labelled_positions, on_one_device
from hf_tc.evaluation.top_k import TopK

# A token's gradient, before it is divided by their number, is about 1: float16 has few digits for its small entries.
GRADIENT_SCALE = 2.0**10


def chunked_objective(
    student: LazyLogits,
    teacher: LazyLogits | TopK,
    targets: Tensor | None,
    objective: Objective,
    *,
    chunk_tokens: int,
    weights: Tensor | None = None,
) -> Tensor:
    """The objective's sum over the labelled positions, a fp32 number in nats.

    Logits exist for `chunk_tokens` positions at a time, or in the pieces of TRL's kernels where `trl_divergence` fits;
    unlabelled positions cost nothing. Gradients reach the student's hidden states and its `parameters`, also when
    nothing is labelled (they are zeros then, so that data-parallel processes stay in step). Nothing is differentiated
    through the teacher.

    Args:
        student, teacher: the widths C of their hidden states may differ; of a teacher the likeliest tokens suffice.
        targets: [B, T], the token that each position is to predict, or -100. None counts every position, for an
            objective without cross-entropy, and waits for no value from a GPU.
        weights: [B, T], what each position counts; 1 by default.

    Raises:
        ValueError: cross-entropy without targets, or a trained tensor in the student's head that its `parameters` lack.
    """
    if targets is None and objective.ce_weight:
        raise ValueError(
            f"targets is None and ce_weight is {objective.ce_weight}; cross-entropy needs the tokens to predict. Give "
            "targets, or set ce_weight to 0."
        )
    hidden, *others = labelled_positions(targets, (student.hidden_states, targets, weights, *teacher.rows))
    if (heads := trl_divergence.fitting_heads(student, teacher, objective)) is not None:
        _, weight, taught = others
        return _weighted_sum(trl_divergence.per_token(heads[0], hidden, heads[1], taught, objective), weight)

    def of_chunk(ours: Tensor, wanted: Tensor | None, weight: Tensor | None, *theirs: Tensor) -> Tensor:
        with torch.no_grad():
            known = teacher.at(*theirs)
        return _weighted_sum(objective.per_token(*on_one_device(student.head(ours), known, wanted)), weight)

    starts = range(0, max(len(hidden), 1), chunk_tokens)
    chunks: list[list[Any]] = [
        [other if other is None else other[i : i + chunk_tokens] for other in others] for i in starts
    ]
    if not torch.is_grad_enabled():
        parts = zip(hidden.split(chunk_tokens), chunks, strict=True)
        return torch.stack([of_chunk(ours, *chunk) for ours, chunk in parts]).sum()
    trained = [parameter for parameter in student.parameters if parameter.requires_grad]
    return _SumWithGradients.apply(of_chunk, chunk_tokens, chunks, hidden, *trained)


def _weighted_sum(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses.sum() if weight is None else losses @ weight.to(losses)


class _SumWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, of_chunk: Callable[..., Tensor], size: int, chunks: list[Any], hidden: Tensor, *parameters: Tensor
    ) -> Tensor:
        losses: list[Tensor] = []
        below_head: list[Tensor] = []
        of_parameters: list[Tensor | None] = [None] * len(parameters)
        for ours, chunk in zip(hidden.split(size), chunks, strict=True):
            with torch.enable_grad():
                ours = ours.detach().requires_grad_()
                loss = of_chunk(ours, *chunk) * GRADIENT_SCALE
            if not losses:
                _check_all_are_named(loss, [ours, *parameters])
            with torch.autocast(loss.device.type, enabled=False):
                gradients = torch.autograd.grad(loss, [ours, *parameters], allow_unused=True)
            losses.append(loss.detach())
            below_head.append(gradients[0])
            of_parameters = [_added(*pair) for pair in zip(of_parameters, gradients[1:], strict=True)]
        ctx.save_for_backward(torch.cat(below_head), *of_parameters)
        ctx.dtypes = [tensor.dtype for tensor in (hidden, *parameters)]
        return torch.stack(losses).sum() / GRADIENT_SCALE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Any, ...]:
        factor = output_gradient / GRADIENT_SCALE
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        # The factor would be rounded to a 16-bit gradient's type.
        scaled = [None if x is None else (_at_least_float32(x) * factor.to(x.device)).to(dtype) for x, dtype in pairs]
        return None, None, None, *scaled


def _check_all_are_named(loss: Tensor, tensors: list[Tensor]) -> None:
    """Raises ValueError for a trained tensor that the loss comes from and nobody takes the gradient of."""
    seen, nodes = {get_gradient_edge(tensor).node for tensor in tensors}, [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if (leaf := getattr(node, "variable", None)) is not None:
            raise ValueError(
                f"The student's head uses a trained tensor of shape {tuple(leaf.shape)} that is not among the "
                "parameters of its LazyLogits, so its gradient would be lost. Name it there, or freeze it."
            )
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]


def _added(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """The sum in float32; None where a head does not use a parameter, which an optimiser then leaves alone."""
    if gradient is None:
        return total
    return _at_least_float32(gradient) if total is None else total.add_(gradient)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
