# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A norm of queries or keys without its division: the linear map that is left, alone and as part of a projection.

Recurrent layers norm q and k to unit length afterwards, so that the division has no effect on them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def norm_direction(norm: nn.Module | None, heads: int, head_dim: int) -> Callable[[Tensor], Tensor]:
    """A q norm without its division: weight (and centring, for a LayerNorm) on `[B, T, H, K]`.

    Read off the module's answers, since families differ in what they call the weight and whether they add 1 to it.
    """
    if norm is None:
        return lambda q: q
    own = norm.get_parameter("weight")
    over_all_heads = own.shape == (heads * head_dim,)
    probe = own.new_ones(1, 1, *((heads * head_dim,) if over_all_heads else (heads, head_dim)))
    centres = bool(norm(probe).abs().max() < 1e-3)  # a LayerNorm maps constants to zero
    probe[..., 1::2] = -1.0  # mean 0, mean square 1: every norm leaves its weight
    weight = norm(probe) * probe

    def direction(q: Tensor) -> Tensor:
        z = q.flatten(2) if over_all_heads else q
        if centres:
            z = z - z.mean(-1, keepdim=True)
        return (z * weight).view_as(q)

    return direction


@torch.no_grad()
def folded_norm(weight: Tensor, norm: nn.Module | None, head_dim: int) -> Tensor:
    """A projection `[H * K, C]` that gives the directions which the norm would make of the given one's."""
    heads = weight.shape[0] // head_dim
    columns = weight.T.unflatten(-1, (heads, head_dim))[None]  # each channel of the input as a token
    return norm_direction(norm, heads, head_dim)(columns)[0].flatten(1).T.contiguous()
