# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Steps over paged states as vLLM plans them: which sequences go on by how many tokens, and where their states are."""

from typing import NamedTuple

import torch

from hf_tc.vllm_plugin.paged_batch import PagedBatch, PagedStates


class Part(NamedTuple):
    """`tokens` more of the sequence whose states are in row `slot`; row 0 is nobody's."""

    slot: int
    tokens: int
    begins: bool = False


def paged_batch(parts: list[Part], device: str = "cpu") -> PagedBatch:
    """One step. As in vLLM, sequences that go on by one token come first, and whole counts are on the device."""
    decodes = 0
    while decodes < len(parts) and parts[decodes].tokens == 1 and not parts[decodes].begins:
        decodes += 1
    whole = lambda numbers: torch.tensor(numbers, dtype=torch.int32, device=device)  # noqa: E731
    ends = torch.tensor([0, *(part.tokens for part in parts)]).cumsum(0).tolist()
    slots = whole([part.slot for part in parts])
    if decodes == len(parts):
        return PagedBatch(decodes, 0, whole(ends), slots)
    known = torch.tensor([not part.begins for part in parts], device=device)
    starts = whole([end - decodes for end in ends[decodes:]])
    return PagedBatch(
        decodes, len(parts) - decodes, whole(ends), slots, known, starts, slots[decodes:], known[decodes:]
    )


def dirty_states(
    rows: int, channels: int, kernel_size: int, heads: int, head_dim: int, like: torch.Tensor, turned: bool = False
) -> PagedStates:
    """States full of what other sequences left there, a row in a page larger than it.

    `turned`: the convolution's in vLLM's other layout.
    """
    shape = (channels, kernel_size - 1) if turned else (kernel_size - 1, channels)
    conv = torch.full((rows, 2, *shape), 7.0, dtype=like.dtype, device=like.device)[:, 0]
    recurrent = torch.full((rows, heads + 1, head_dim, head_dim), 7.0, device=like.device)[:, :heads]
    return PagedStates(conv if turned else conv.transpose(1, 2), recurrent)
