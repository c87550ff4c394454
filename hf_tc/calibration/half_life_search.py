# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Half-life and write gate of each head, by measured residual.

For each candidate pair the recurrence's output o is computed and compared with the teacher's context c. The output gate
sets the size of each token, so outputs are compared at equal size, n_t = o_t / rms(o_t), with the best single scale:

    residual_h = 1 - <c, n>^2 / (|c|^2 |n|^2)         sums over tokens and channels of head h

All heads try the same candidates, some of these together where there is room, and each keeps its own best.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_tc.calibration.decay import log_decay_of
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule


def output_residual(recurrence_output: Tensor, context: Tensor) -> Tensor:
    """Share of the context that the normalised output cannot give with one scale per head, `[.., H]` in [0, 1].

    The output is `[.., B, T, H, V]`, the context `[B, T, H, V]`.
    """
    length = recurrence_output.square().sum(-1)
    scale = torch.rsqrt(length / recurrence_output.shape[-1] + 1e-12)  # of each token to its normalised output
    inner = _over_tokens((recurrence_output * context).sum(-1) * scale)
    sizes = _over_tokens(length * scale.square()) * _over_tokens(context.square().sum(-1))
    return 1.0 - inner.square() / sizes.clamp_min(1e-30)


def _over_tokens(x: Tensor) -> Tensor:
    """Sums `[.., B, T, H]` to `[.., H]`, in float64."""
    return x.sum((-3, -2), dtype=torch.float64)


def search_memory(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context: Tensor,
    half_lives: Tensor,
    betas: Sequence[float],
    at_once: int = 1,
) -> tuple[Tensor, Tensor]:
    """Half-life in tokens `[H]` and beta `[H]` with the smallest residual, among all pairs of candidates.

    Args:
        q, k, v: what the delta rule reads, `[B, T, H, D]`, q and k of unit length.
        context: the teacher's context, `[B, T, H, V]`.
        half_lives: candidates of each head, `[candidates, H]`, tokens.
        betas: candidates of every head.
        at_once: pairs whose outputs exist at the same time.
    """
    half_lives = half_lives.repeat_interleave(len(betas), 0)  # [pairs, H]
    gates = torch.tensor(betas).to(half_lives).repeat(len(half_lives) // len(betas))  # [pairs]
    residuals = []
    for half_life, gate in zip(half_lives.split(at_once), gates.split(at_once), strict=True):
        tried = (len(gate), *q.shape[:3])  # every pair on every block
        log_decay = log_decay_of(half_life)[:, None, None].expand(tried).flatten(0, 1)
        beta = gate[:, None, None, None].expand(tried).flatten(0, 1)
        repeated = {name: x.expand(len(gate), *x.shape).flatten(0, 1) for name, x in (("q", q), ("k", k), ("v", v))}
        recurrence_output, _ = chunk_gated_delta_rule(**repeated, log_decay=log_decay, beta=beta)
        residuals.append(output_residual(recurrence_output.unflatten(0, tried[:2]), context))
    best = torch.cat(residuals).nan_to_num(nan=torch.inf).argmin(0)  # [H], the first of equal ones
    return half_lives.gather(0, best[None])[0], gates[best]
