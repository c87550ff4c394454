# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Several projections of the same input as one matrix product.

While a small model trains, launching a product takes longer than the product: one of six is what makes a step short.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .gate_projection import GateProjection

Projection = nn.Linear | GateProjection
ALIGNED = 8  # rows; matrix products of other sizes take slower kernels
JOINED_BYTES = 2**25  # of weights: joining copies them, which for large ones costs more than it saves


def can_be_joined(projections: Sequence[Projection], x: Tensor) -> bool:
    """Whether the projections are plain ones that train alike, and joining them pays for this input."""
    if not (x.is_cuda and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return False
    weights = [projection.weight for projection in projections if _is_plain(projection)]
    if len(weights) < len(projections) or len({weight.dtype for weight in weights}) > 1:
        return False
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return size <= JOINED_BYTES and len({weight.requires_grad for weight in weights}) == 1


def joined(projections: Sequence[Projection]) -> tuple[Tensor, Tensor | None]:
    """Weight `[rows, C]` and bias `[rows]` of all, one below the other, and zeros up to a multiple of ALIGNED."""
    weights, biases = [p.weight for p in projections], [p.bias for p in projections]
    missing = -sum(map(len, weights)) % ALIGNED
    zeros = weights[0].new_zeros(max(missing, *map(len, weights)), weights[0].shape[1] if missing else 1)
    bias = None
    if any(b is not None for b in biases):
        pairs = zip(biases, weights, strict=True)
        bias = torch.cat([*(zeros[: len(w), 0] if b is None else b for b, w in pairs), zeros[:missing, 0]])
    return torch.cat([*weights, zeros[:missing]]) if missing else torch.cat(weights), bias


def _is_plain(projection: Projection) -> bool:
    """No adapter, quantiser, hook or sharding has taken the module over."""
    return (
        type(projection) in (nn.Linear, GateProjection)
        and type(projection.weight) is nn.Parameter
        and not (projection._forward_hooks or projection._forward_pre_hooks)
        and not (projection._backward_hooks or projection._backward_pre_hooks)
        and "forward" not in vars(projection)  # as accelerate hooks a module
    )
