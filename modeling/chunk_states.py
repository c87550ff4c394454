# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the chunked delta rule solves: the writes inside a chunk, and the states between chunks.

Chunks come first in all shapes, so that one chunk of all rows and heads is one piece of memory.
"""

import torch

SOLVED_AT_ONCE = 16  # rows of a triangle that LAPACK inverts on a CPU; larger ones are put together by products


def unit_lower_inverse(system: torch.Tensor) -> torch.Tensor:
    """(I + A)^-1 `[.., C, C]` for the strictly lower triangle A of `system`; the rest of it is not read.

    On a CPU by halves, since batched triangular solves run at a fraction of the speed of products there (an exported
    program, which is for many sizes, has the solve):

        [[P, 0], [R, Q]]^-1 = [[P^-1, 0], [-Q^-1 R P^-1, Q^-1]]
    """
    size = system.shape[-1]
    if system.device.type != "cpu" or torch.compiler.is_compiling() or size <= SOLVED_AT_ONCE or size % 2:
        identity = torch.eye(size, dtype=system.dtype, device=system.device).expand_as(system)
        # unitriangular: the diagonal is read as 1, the upper triangle is not read.
        return torch.linalg.solve_triangular(system, identity, upper=False, unitriangular=True)
    half = size // 2
    on_diagonal = torch.stack([system[..., :half, :half], system[..., half:, half:]])
    first, last = unit_lower_inverse(on_diagonal).unbind(0)
    inverse = torch.zeros_like(system)
    inverse[..., :half, :half], inverse[..., half:, half:] = first, last
    inverse[..., half:, :half] = (last @ system[..., half:, :half] @ first).neg_()
    return inverse


def scan_states(
    state: torch.Tensor, added: torch.Tensor, taken: torch.Tensor, across: torch.Tensor, *, reverse: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states between chunks, of which each turns S into across S + (added - taken S).

    state `[B, H, K, V]`, added `[N, B, H, K, V]`, taken `[N, B, H, K, K]`, across `[N, B, H, 1, 1]`. Returns the states
    before the chunks `[N, B, H, K, V]`, and the one after the last; with `reverse`, from the last chunk to the first.
    That one lies in `added`, whose values are not kept. Two kernels a chunk: launching them, and a CPU's small
    products, take longer than the multiplications that this order of the products adds.

    What is kept of the state is not part of the product, whose factors a GPU may round (TF32): the state would lose
    digits at every chunk.
    """
    rows, states, state = state.shape[:2], [], state.flatten(0, 1)
    order = -1 if reverse else 1
    chunks = zip(*(x.flatten(1, 2).unbind(0)[::order] for x in (added, taken, across)), strict=True)
    for added_n, taken_n, across_n in chunks:
        states.append(state)
        state = added_n.baddbmm_(taken_n, state, alpha=-1).addcmul_(across_n, state)
    return torch.stack(states[::order]).unflatten(1, rows), state.unflatten(0, rows)


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, alpha: float = 1.0) -> None:
    """total += alpha left @ right for `[.., I, J]`, `[.., I, L]`, `[.., L, J]`, in one kernel and no other memory."""
    total.view(-1, *total.shape[-2:]).baddbmm_(left.flatten(0, -3), right.flatten(0, -3), alpha=alpha)
