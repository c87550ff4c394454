# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What an engine with paged memory hands to a recurrent layer: sequences side by side, and where their states are."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


@dataclass
class PagedBatch:
    """The sequences of one step, side by side in one dimension of T tokens. Names are those of vLLM's
    `GDNAttentionMetadata`, which stands for it in the engine.

    Attributes:
        num_decodes: how many sequences, the first ones, go on by one token.
        num_prefills: how many come after these, with one token or more each.
        non_spec_query_start_loc: `[sequences + 1]`, where each begins, and where the last one ends.
        non_spec_state_indices_tensor: `[sequences]`, the row of `PagedStates` that is each one's.
        has_initial_state: `[sequences]`, whether it was begun in an earlier step; None where all were.
        prefill_query_start_loc, prefill_state_indices, prefill_has_initial_state: the same of the prefills alone.
        chunk_indices, chunk_offsets, nums_dict, batch_ptr, token_chunk_offset_ptr: what vLLM's kernels planned ahead.
    """

    num_decodes: int
    num_prefills: int
    non_spec_query_start_loc: torch.Tensor
    non_spec_state_indices_tensor: torch.Tensor
    has_initial_state: torch.Tensor | None = None
    prefill_query_start_loc: torch.Tensor | None = None
    prefill_state_indices: torch.Tensor | None = None
    prefill_has_initial_state: torch.Tensor | None = None
    chunk_indices: torch.Tensor | None = None
    chunk_offsets: torch.Tensor | None = None
    nums_dict: dict[int, Any] | None = None
    batch_ptr: torch.Tensor | None = None
    token_chunk_offset_ptr: torch.Tensor | None = None


class PagedStates(NamedTuple):
    """States of all sequences of a layer, a row for each, which a step reads and replaces.

    Attributes:
        conv: `[rows, channels, kernel_size - 1]`, the tokens before, oldest first.
        recurrent: `[rows, H, V, K]`; by `torch_core` `[rows, H, K, V]`.
    """

    conv: torch.Tensor
    recurrent: torch.Tensor


class PagedInputs(NamedTuple):
    """What the delta rule reads of T tokens, per query head.

    q, k `[T, H, K]` before their L2 norm, v `[T, H, V]`; log_decay and beta `[T, H]`, in float32.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    log_decay: torch.Tensor
    beta: torch.Tensor


def add_first_values(output: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, batch: PagedBatch) -> None:
    """As `hf_tc.modeling.first_token`, in place: to the recurrence's output `[T, H, V]`, weight `[H * V]` times the
    values of the first token of each sequence that no earlier step began."""
    if batch.num_prefills == 0 or batch.has_initial_state is None:
        return
    prefills = slice(batch.num_decodes, batch.num_decodes + batch.num_prefills)
    starts, known = batch.non_spec_query_start_loc[prefills].long(), batch.has_initial_state[prefills]
    added = values[starts] * weight.to(values.dtype).view(values.shape[1:])
    output.index_add_(0, starts, added.masked_fill(known[:, None, None], 0.0))
