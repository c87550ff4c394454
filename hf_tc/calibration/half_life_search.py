# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Half-life, write gate and sign of each head, by measured residual.

For each candidate pair the recurrence's output o is computed and compared with the teacher's context c. The output gate
sets the size of each token, so what counts is what no positive size can give, token by token:

    residual_h = 1 - sum_t max(0, sign <o_t, c_t>)^2 / |o_t|^2 / sum_t |c_t|^2

One scale for all tokens would ask too much where an attention sink changes the size of a head's output from token to
token. Softmax does not see a constant in q.k, the recurrence does, and the output of some heads points away from their
context: a gate of SiLU cannot turn it, a negated W_q does, so both signs are tried.

Every second half-life and beta come first, then all betas at the best half-life and its neighbours. All heads try as
many at once, some of these together where there is room, and each keeps its own best.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from hf_tc.calibration.decay import log_decay_of
from hf_tc.modeling.gated_delta_rule import chunk_gated_delta_rule


class Memory(NamedTuple):
    """half_life in tokens, beta, and sign, -1 where W_q is to be negated: each `[H]`."""

    half_life: Tensor
    beta: Tensor
    sign: Tensor


def output_residuals(recurrence_output: Tensor, context: Tensor, signs: Sequence[float] = (1.0,)) -> Tensor:
    """Share of the context that the output times each of some signs, at a positive size of each token, cannot give.

    The output is `[.., B, T, H, V]`, the context `[B, T, H, V]`, the shares `[signs, .., H]` in [0, 1].
    """
    along = (recurrence_output * context).sum(-1)
    size = recurrence_output.square().sum(-1).clamp_min(1e-20)
    given = [_over_tokens((sign * along).clamp_min(0).square() / size) for sign in signs]
    return 1.0 - torch.stack(given) / _over_tokens(context.square().sum(-1)).clamp_min(1e-30)


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
    signs: Sequence[float] = (1.0, -1.0),
    at_once: int = 1,
) -> Memory:
    """The memory with the smallest residual, of those candidates that are tried.

    Args:
        q, k, v: what the delta rule reads, `[B, T, H, D]`, q and k of unit length.
        context: the teacher's context, `[B, T, H, V]`.
        half_lives: candidates of each head, `[candidates, H]`, tokens, from short to long.
        betas: candidates of every head, from small to large.
        signs: candidates of every head.
        at_once: pairs whose outputs exist at the same time.
    """
    gates = torch.tensor(betas).to(half_lives)[:, None].expand(-1, half_lives.shape[1])
    count = len(half_lives)

    def best_of(which: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of indices of half-lives and betas, both `[pairs, H]`, the best, `[H]`, and the index of its sign."""
        pairs = half_lives.gather(0, which), gates.gather(0, gate)
        residuals = _residuals(q, k, v, context, *pairs, signs, at_once).nan_to_num(nan=torch.inf)
        best = residuals.flatten(0, 1).argmin(0)  # the first of equal ones
        pair = (best % len(which))[None]
        return which.gather(0, pair)[0], gate.gather(0, pair)[0], best // len(which)

    which, gate = _pairs(range(0, count, 2), range(0, len(betas), 2), half_lives)
    best, _, _ = best_of(which, gate)
    step, gate = _pairs(range(-1, 2) if count > 1 else range(1), range(len(betas)), half_lives)
    which, gate, sign = best_of((best + step).clamp(0, count - 1), gate)
    return Memory(
        half_lives.gather(0, which[None])[0], gates.gather(0, gate[None])[0], torch.tensor(signs).to(half_lives)[sign]
    )


def _pairs(first: range, second: range, half_lives: Tensor) -> Tensor:
    """All pairs of two indices, for every head: `[2, pairs, H]`."""
    pairs = torch.tensor(list(product(first, second)), device=half_lives.device)
    return pairs.T[..., None].expand(-1, -1, half_lives.shape[1])


def _residuals(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context: Tensor,
    half_lives: Tensor,
    betas: Tensor,
    signs: Sequence[float],
    at_once: int,
) -> Tensor:
    """`output_residuals` of pairs `[pairs, H]`, `[signs, pairs, H]`."""
    residuals = []
    for half_life, gate in zip(half_lives.split(at_once), betas.split(at_once), strict=True):
        tried = (len(gate), *q.shape[:3])  # every pair on every block
        log_decay = log_decay_of(half_life)[:, None, None].expand(tried).flatten(0, 1)
        beta = gate[:, None, None].expand(tried).flatten(0, 1)
        repeated = {name: x.expand(len(gate), *x.shape).flatten(0, 1) for name, x in (("q", q), ("k", k), ("v", v))}
        recurrence_output, _ = chunk_gated_delta_rule(**repeated, log_decay=log_decay, beta=beta)
        recurrence_output = recurrence_output.unflatten(0, tried[:2])
        residuals.append(output_residuals(recurrence_output, context, signs))
    return torch.cat(residuals, 1)
