# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The gated delta rule of whole chunks, and its gradient by hand: autograd's takes three times the operations.

With S_t = alpha_t S_{t-1} + k_t u_t^T and G the cumulative log decay inside a chunk,

    (I + A) U = beta V - beta exp(G) K S_0,     A_ti = beta_t exp(G_t - G_i) k_t.k_i  for i < t
    o_t = exp(G_t) S_0^T q_t + sum_{i<=t} exp(G_t - G_i) (q_t.k_i) u_i

so that all chunks are solved at once, and read at once when the states between them are known (`chunk_states`). With
dX = (I + A)^-T dU the gradient of the system's right side, d A = -dX U^T, and a scan of the states' gradients from the
last chunk to the first. G stands in exp(G_t) with what token t reads and in exp(-G_i) with what token i is read by, so
that d G_t is <q_t, d q_t> + <k_t, d k_t as a reader> - <k_t, d k_t as what is read>.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .chunk_states import add_product, scan_states, unit_lower_inverse
from .tf32 import tf32_products


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
    inverse, (I + A)^-1. `[N, B, H, C, K]`: state_writes, X_k of U = X_v - X_k S_0; k_out, keys as the chunk's end has
    them. taken `[N, B, H, K, K]`: what a chunk takes from the state."""

    k_out: torch.Tensor
    between: torch.Tensor
    from_start: torch.Tensor
    to_end: torch.Tensor
    scores: torch.Tensor
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
    inverse = unit_lower_inverse((k @ k.mT).mul_(between).mul_(beta[..., None]))
    state_writes = inverse @ (k * (beta * from_start)[..., None])
    k_out = k * to_end[..., None]
    taken = k_out.mT @ state_writes
    return _Decayed(k_out, between, from_start, to_end, scores, inverse, state_writes, taken)


class ChunkRule(torch.autograd.Function):
    """q (over sqrt K), k `[N, B, H, C, K]`, v `[N, B, H, C, V]`, log_decay, beta `[N, B, H, C]`, state `[B, H, K, V]`,
    a `ChunkMask` to the outputs o `[N, B, H, C, V]` and the final state. With tf32 the gradient's products
    run in TF32, as the caller's do."""

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
        tf32: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        k_out, *chunks = decayed = _decayed(q, k, log_decay, beta, mask)
        writes = decayed.inverse @ (v * beta[..., None])
        added = k_out.mT @ writes
        before, final = scan_states(state, added, decayed.taken, decayed.from_start[..., -1, None, None])
        add_product(writes, decayed.state_writes, before, alpha=-1)
        recurrence_output = (q * decayed.from_start[..., None]) @ before
        add_product(recurrence_output, decayed.scores, writes)
        ctx.save_for_backward(q, k, v, beta, *chunks, before, writes)
        ctx.tf32 = tf32
        return recurrence_output, final.clone()  # no view: a cache keeps it, and writes into it

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: torch.Tensor, d_final: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        products = tf32_products() if ctx.tf32 else nullcontext()
        with torch.autocast(d_output.device.type, enabled=False), products:
            return *_gradients(*ctx.saved_tensors, d_output=d_output, d_final=d_final), None, None


def _gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor,
    between: torch.Tensor,
    from_start: torch.Tensor,
    to_end: torch.Tensor,
    scores: torch.Tensor,
    inverse: torch.Tensor,
    state_writes: torch.Tensor,
    taken: torch.Tensor,
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
    d_before = (q * from_start[..., None]).mT @ d_output
    add_product(d_before, state_writes.mT, d_writes, alpha=-1)
    after, d_state = scan_states(d_final, d_before, taken.mT, across, reverse=True)
    add_product(d_writes, k_out, after)
    # Between tokens: of the system, whose diagonal is no part of it, without its sign and beta; and of the scores.
    d_values = inverse.mT @ d_writes
    d_system = (d_values @ writes.mT).mul_(between)
    d_scores = (d_output @ writes.mT).mul_(between)
    # A token's score with itself does not decay. Where others' are forgotten it would drown d G in rounding errors.
    own = d_scores.diagonal(dim1=-2, dim2=-1)[..., None].clone()
    for square in (d_system, d_scores):
        square.diagonal(dim1=-2, dim2=-1).zero_()

    d_q = (d_output @ before.mT).mul_(from_start[..., None])
    add_product(d_q, d_scores, k)
    # k as what reads, over beta, and as what is read, in the chunk and after it.
    d_reader = (d_values @ before.mT).mul_(-from_start[..., None])
    add_product(d_reader, d_system, k, alpha=-1)
    d_read = (writes @ after.mT).mul_(to_end[..., None])
    read_after = (k * d_read).sum((-1, -2))
    add_product(d_read, d_scores.mT, q)
    add_product(d_read, d_system.mT, k * beta[..., None], alpha=-1)
    d_beta = (d_values * v).sum(-1) + (d_reader * k).sum(-1)
    d_reader.mul_(beta[..., None])

    d_total = (q * d_q).sum(-1) + (k * (d_reader - d_read)).sum(-1)
    d_total[..., -1] += read_after + (before * after).sum((-1, -2)) * from_start[..., -1]
    d_log_decay = d_total.flip(-1).cumsum(-1).flip(-1)
    d_q.addcmul_(own, k)
    d_k = d_reader.add_(d_read).addcmul_(own, q)
    return d_q, d_k, d_values.mul_(beta[..., None]), d_log_decay, d_beta, d_state


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
    added = (chunks.k_out.mT @ own_writes) @ v
    before, final = scan_states(state, added, chunks.taken, chunks.from_start[..., -1, None, None])
    from_state = q * chunks.from_start[..., None]
    add_product(from_state, chunks.scores, chunks.state_writes, alpha=-1)
    recurrence_output = (chunks.scores @ own_writes) @ v
    add_product(recurrence_output, from_state, before)
    return recurrence_output, final.clone()
