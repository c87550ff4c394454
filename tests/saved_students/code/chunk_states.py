# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What goes in order in the chunked delta rule: the states between chunks. Two ways to the same numbers.

Chunk n of C tokens turns the state S into across S + k_out (own_writes - state_writes S). Shapes in both: state
`[B, H, K, V]`, own_writes `[B, H, N, C, V]`, state_writes `[B, H, N, C, K]`, across `[B, H, N, 1, 1]` (decay over the
whole chunk), k_out `[B, H, N, K, C]` (keys, decayed to the chunk's end). Both return the states before the chunks
`[B, H, N, K, V]`, what the chunks write `[B, H, N, C, V]`, and the state after the last.
"""

import torch


def states_by_writes(
    state: torch.Tensor, own_writes: torch.Tensor, state_writes: torch.Tensor, across: torch.Tensor, k_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the equation reads: the fewest multiplications, five kernels a chunk."""
    states, writes = [], []
    # unbind, not indexing: the gradient of each index would be a tensor of zeros as large as all chunks together.
    chunks = (x.unbind(2) for x in (own_writes, state_writes, across, k_out))
    for own, from_state, across_n, k_n in zip(*chunks, strict=True):
        states.append(state)
        writes.append(own - from_state @ state)
        state = across_n * state + k_n @ writes[-1]
    return torch.stack(states, dim=2), torch.stack(writes, dim=2), state


def states_in_one_product(
    state: torch.Tensor, own_writes: torch.Tensor, state_writes: torch.Tensor, across: torch.Tensor, k_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As S -> across S + (k_out own_writes - k_out state_writes S): two kernels a chunk, for a GPU, where launching
    five takes longer than the multiplications that this adds.

    What is kept of the state is not part of the product, whose factors a GPU may round (TF32): the state would lose
    digits at every chunk.
    """
    new, taken = k_out @ own_writes, k_out @ state_writes
    rows, states, state = state.shape[:2], [], state.flatten(0, 1)
    for new_n, taken_n, across_n in zip(*(x.flatten(0, 1).unbind(1) for x in (new, taken, across)), strict=True):
        states.append(state)
        state = torch.addcmul(torch.baddbmm(new_n, taken_n, state, alpha=-1), across_n, state)
    before = torch.stack(states, dim=1).unflatten(0, rows)
    return before, own_writes - state_writes @ before, state.unflatten(0, rows)
