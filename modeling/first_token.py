# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a text's first token adds to a recurrent layer: its own value.

Softmax attention gives the first token its value whole, since there is nothing else to look at; a memory that is empty
gives beta (q.k) / sqrt(K) of it, a hundredth or so. With a weight w for each channel, learned as any other,

    o_t + [t is the first token of its text] w * v_t

goes on in the place of o_t.

Massive activations at the first token, which attention sinks of all layers hang on (arXiv 2402.17762), begin there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .cache import GDNCacheLayer
from .masks import RecurrentMask

if TYPE_CHECKING:
    from .gated_deltanet import GatedDeltaNet


def with_first_values(
    mixer: GatedDeltaNet,
    recurrence_output: torch.Tensor,
    values: torch.Tensor,
    mask: RecurrentMask,
    layer_cache: GDNCacheLayer | None,
) -> torch.Tensor:
    """`add_first_values` of a layer that has such a weight, after the tokens in its cache, which has not theirs yet."""
    past_state, rows_may_be_new = None, False
    if layer_cache is not None:
        past_state, rows_may_be_new = layer_cache.recurrent_state, layer_cache.rows_may_be_new
    assert mixer.first_token_weight is not None
    weight = mixer.own_heads(mixer.first_token_weight, values.shape[2])
    return add_first_values(
        recurrence_output, values, weight, first_tokens(mask, values.shape[1], past_state, rows_may_be_new)
    )


def first_tokens(
    mask: RecurrentMask, length: int, past_state: torch.Tensor | None, rows_may_be_new: bool = False
) -> torch.Tensor | bool:
    """Which of `length` tokens are the first of their text: `[B, T]` bool, True for the first of each row, or False for
    none.

    Args:
        past_state: `[B, H, K, V]` of the tokens before, None where there are none.
        rows_may_be_new: whether there are rows of which only padding came before. Their state is all zeros.
    """
    if mask.document_position is not None:
        return mask.document_position == 0
    if past_state is not None and not rows_may_be_new:
        return False
    if past_state is None:
        return True if mask.padding is None else _first_real(mask.padding)
    is_new = (past_state == 0).flatten(1).all(-1, keepdim=True)
    return F.pad(is_new, (0, length - 1)) if mask.padding is None else is_new & _first_real(mask.padding)


def add_first_values(
    recurrence_output: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, first: torch.Tensor | bool
) -> torch.Tensor:
    """The recurrence's output `[B, T, H, V]` with what first tokens add; it is written to where they begin all rows.

    Args:
        values, weight: `[B, T, H, V]` and `[H * V]`.
        first: as `first_tokens` gives it.
    """
    if first is False:
        return recurrence_output
    weight = weight.to(values.dtype).view(values.shape[2:])
    if first is True:
        recurrence_output[:, 0] += weight * values[:, 0]
        return recurrence_output
    return recurrence_output + first[..., None, None] * (weight * values)


def _first_real(padding: torch.Tensor) -> torch.Tensor:
    """`[B, T]`, the first real token of each row; none in a row of padding."""
    return padding & (padding.cumsum(-1) == 1)
