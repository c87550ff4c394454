# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The recurrence over paged states in torch, for CPUs: hf_tc's own forms, sequence by sequence.

`kernel_core` has the same two functions on vLLM's kernels, for GPUs. Sequences that go on by one token are one batch.
A state is kept as hf_tc's forms have it, `[H, K, V]`, in the room for vLLM's `[H, V, K]`: as many numbers, which nobody
else reads.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from hf_tc.modeling.gated_delta_rule import gated_delta_rule
from hf_tc.modeling.recurrence_inputs import l2_normalise
from hf_tc.modeling.short_convolution import joined, short_convolution

from .paged_batch import PagedBatch, PagedInputs, PagedStates


def convolve(
    qkv: torch.Tensor, weight: torch.Tensor, states: PagedStates, batch: PagedBatch, activation: str | None
) -> torch.Tensor:
    """The short convolution of `[T, channels]` by weight `[channels, kernel_size]`, whose last column is the token's.

    `activation`, None or "silu", follows it. The tokens before are read from `states.conv` and replaced.
    """
    taps = weight.t().flip(0)  # [kernel_size, channels], the token's first
    output = torch.empty_like(qkv)
    for tokens, slots, is_new in _groups(batch):
        x = qkv[tokens].view(len(slots), -1, qkv.shape[-1])
        past = states.conv[slots].transpose(1, 2)  # [B, kernel_size - 1, channels]
        if is_new:
            past = torch.zeros_like(past)
        output[tokens] = short_convolution(x, taps, past).flatten(0, 1)
        states.conv[slots] = joined(x, past, len(taps))[:, x.shape[1] :].transpose(1, 2).to(states.conv.dtype)
    return F.silu(output) if activation == "silu" else output


def delta_rule(inputs: PagedInputs, states: PagedStates, batch: PagedBatch) -> torch.Tensor:
    """The gated delta rule's output `[T, H, V]`; `states.recurrent` is read and replaced."""
    q, k = l2_normalise(inputs.q), l2_normalise(inputs.k)
    output = torch.empty_like(inputs.v)
    for tokens, slots, is_new in _groups(batch):
        rows = lambda x: x[tokens].unflatten(0, (len(slots), -1))  # noqa: B023, E731  # called in this round
        read, state = gated_delta_rule(
            q=rows(q),
            k=rows(k),
            v=rows(inputs.v),
            log_decay=rows(inputs.log_decay),
            beta=rows(inputs.beta),
            state=None if is_new else states.recurrent[slots],
        )
        output[tokens] = read.flatten(0, 1)
        states.recurrent[slots] = state.to(states.recurrent.dtype)
    return output


def _groups(batch: PagedBatch) -> Iterator[tuple[slice, torch.Tensor, bool]]:
    """Sequences that are worked on together: their tokens, their slots `[B]`, and whether they are new."""
    decodes, count = batch.num_decodes, batch.num_decodes + batch.num_prefills
    starts = batch.non_spec_query_start_loc[: count + 1].tolist()
    slots, known = batch.non_spec_state_indices_tensor[:count].long(), batch.has_initial_state
    if decodes:
        yield slice(0, decodes), slots[:decodes], False
    for index in range(decodes, count):
        is_new = known is not None and not bool(known[index])
        yield slice(starts[index], starts[index + 1]), slots[index : index + 1], is_new
