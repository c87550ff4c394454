# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The gated delta rule of whole chunks, and its gradient by hand: autograd's takes three times the operations.

With S_t = alpha_t S_{t-1} + k_t u_t^T and G the cumulative log decay inside a chunk,

    (I + A) U = beta V - beta exp(G) K S_0,     A_ti = beta_t exp(G_t - G_i) k_t.k_i  for i < t
    o_t = exp(G_t) S_0^T q_t + sum_{i<=t} exp(G_t - G_i) (q_t.k_i) u_i

so that all chunks are solved at once, and read at once when the states between them are known (`chunk_states`). With X
the two sides of U = X_v - X_k S_0, gradients follow from d A = -(I + A)^-T dX X^T, and from a scan of the states'
gradients from the last chunk to the first.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .chunk_states import scan_states, unit_lower_inverse


class ChunkMask(NamedTuple):
    """What tokens of a chunk see of one another.

    visible: `[.., C, C]`, 0 where token t sees token i, -inf elsewhere; added before the exponential, since above the
        diagonal the difference of decays is positive and would overflow.
    keep_in, keep_out: `[.., C]`, 1 where a token sees the state that comes in, or is in the one that goes out, else 0.
    """

    visible: torch.Tensor
    keep_in: torch.Tensor
    keep_out: torch.Tensor


class _Decayed(NamedTuple):
    """What chunks are apart from their values. `[N, B, H, C]`: from_start, to_end, decays from the chunk's start to
    each token and from there to its end. `[N, B, H, C, C]`: between, decays between tokens; scores, q.k times these;
    key_scores, k.k times these; inverse, (I + A)^-1. state_writes, X_k `[N, B, H, C, K]`. taken `[N, B, H, K, K]`: what
    a chunk takes from the state."""

    between: torch.Tensor
    from_start: torch.Tensor
    to_end: torch.Tensor
    scores: torch.Tensor
    key_scores: torch.Tensor
    inverse: torch.Tensor
    state_writes: torch.Tensor
    taken: torch.Tensor


def _decayed(
    q: torch.Tensor, k: torch.Tensor, log_decay: torch.Tensor, beta: torch.Tensor, mask: ChunkMask
) -> _Decayed:
    total = log_decay.cumsum(-1)
    between = (total[..., :, None] - total[..., None, :]).add_(mask.visible).exp_()
    from_start = total.exp() * mask.keep_in
    to_end = (total[..., -1:] - total).exp() * mask.keep_out
    scores = (q @ k.mT).mul_(between)
    key_scores = (k @ k.mT).mul_(between)
    inverse = unit_lower_inverse(key_scores * beta[..., None])
    state_writes = inverse @ (k * (beta * from_start)[..., None])
    taken = (k * to_end[..., None]).mT @ state_writes
    return _Decayed(between, from_start, to_end, scores, key_scores, inverse, state_writes, taken)


class ChunkRule(torch.autograd.Function):
    """q (over sqrt K), k `[N, B, H, C, K]`, v `[N, B, H, C, V]`, log_decay, beta `[N, B, H, C]`, state `[B, H, K, V]`,
    a `ChunkMask` to the outputs o `[N, B, H, C, V]` and the final state."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        log_decay: torch.Tensor,
        beta: torch.Tensor,
        state: torch.Tensor,
        mask: ChunkMask,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        chunks = _decayed(q, k, log_decay, beta, mask)
        own_writes = chunks.inverse @ (v * beta[..., None])
        added = (k * chunks.to_end[..., None]).mT @ own_writes
        before, final = scan_states(state, added, chunks.taken, chunks.from_start[..., -1, None, None])
        writes = own_writes - chunks.state_writes @ before
        recurrence_output = ((q * chunks.from_start[..., None]) @ before).add_(chunks.scores @ writes)
        ctx.save_for_backward(q, k, v, beta, *chunks, own_writes, before, writes)
        return recurrence_output, final.clone()  # no view: a cache keeps it, and writes into it

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: torch.Tensor, d_final: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with torch.autocast(d_output.device.type, enabled=False):
            return *_gradients(*ctx.saved_tensors, d_output=d_output, d_final=d_final), None


def _gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor,
    between: torch.Tensor,
    from_start: torch.Tensor,
    to_end: torch.Tensor,
    scores: torch.Tensor,
    key_scores: torch.Tensor,
    inverse: torch.Tensor,
    state_writes: torch.Tensor,
    taken: torch.Tensor,
    own_writes: torch.Tensor,
    before: torch.Tensor,
    writes: torch.Tensor,
    *,
    d_output: torch.Tensor,
    d_final: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Gradients of q, k, v, log_decay, beta and state; names as in `ChunkRule.forward`, d_x the gradient of x."""
    # The states, from the last chunk to the first: after[n] is the gradient of the state after chunk n.
    across, k_out = from_start[..., -1, None, None], k * to_end[..., None]
    d_writes = scores.mT @ d_output
    d_before = (q * from_start[..., None]).mT @ d_output - state_writes.mT @ d_writes
    after, d_state = scan_states(d_final, *(x.flip(0) for x in (d_before, taken.mT, across)))
    after = after.flip(0)
    d_writes += k_out @ after
    # The triangular system. Its diagonal is no part of it.
    d_values = inverse.mT @ d_writes
    d_keys = -(inverse.mT @ (d_writes @ before.mT))
    d_system = -(d_values @ own_writes.mT + d_keys @ state_writes.mT).tril_(-1)
    d_scores = d_output @ writes.mT
    # What reads of each token: q decayed from the start, k decayed to the end, k and v over beta.
    d_q_in, d_k_out = d_output @ before.mT, writes @ after.mT
    d_key_scores, written = d_system * key_scores, (d_keys * k).sum(-1)
    d_beta = d_key_scores.sum(-1) + (d_values * v).sum(-1) + written * from_start
    d_between = d_key_scores.mul_(beta[..., None]).add_(d_scores * scores)
    d_from_start = (written * beta + (d_q_in * q).sum(-1)) * from_start
    d_from_start[..., -1] += (before * after).sum((-1, -2)) * from_start[..., -1]
    d_to_end = (d_k_out * k).sum(-1) * to_end
    d_total = d_between.sum(-1) - d_between.sum(-2) + d_from_start - d_to_end
    d_total[..., -1] += d_to_end.sum(-1)
    d_log_decay = d_total.flip(-1).cumsum(-1).flip(-1)

    d_system = d_system.mul_(between).mul_(beta[..., None])
    d_scores = d_scores.mul_(between)
    d_q = d_scores @ k + d_q_in * from_start[..., None]
    d_k = d_scores.mT @ q + (d_system + d_system.mT) @ k
    d_k += d_keys * (beta * from_start)[..., None] + d_k_out * to_end[..., None]
    return d_q, d_k, d_values * beta[..., None], d_log_decay, d_beta, d_state


def read_wide_values(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
    mask: ChunkMask,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `ChunkRule`, for values much wider than a chunk and without a gradient: with P the scores, the products
    P (I + A)^-1 and P X_k are made first, and what has the width of the values is touched by three products alone."""
    chunks = _decayed(q, k, log_decay, beta, mask)
    own_writes = chunks.inverse * beta[..., None, :]  # of unit values
    added = ((k * chunks.to_end[..., None]).mT @ own_writes) @ v
    before, final = scan_states(state, added, chunks.taken, chunks.from_start[..., -1, None, None])
    from_state = q * chunks.from_start[..., None] - chunks.scores @ chunks.state_writes
    return ((chunks.scores @ own_writes) @ v).add_(from_state @ before), final
