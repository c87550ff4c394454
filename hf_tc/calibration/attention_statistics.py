# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far and how sharply each head of the teacher looks: streamed statistics of its attention maps.

Maps are recomputed from queries and keys in tiles, so that memory per head is O(BLOCK^2) at any length, no `T x T` map
ever exists and the teacher may use any attention kernel. A row's softmax is put together from its tiles: with
m the largest score so far and w_s = exp(score_s - m),

    Z = sum w_s,    distance = sum w_s (t - s) / Z,    entropy = log Z - sum w_s (score_s - m) / Z

and when m grows by d, Z and the distance sum shrink by e^-d, the last sum to e^-d (sum - d Z). Source of the
quantities: Taylor-Calibrate (arXiv 2606.16429), section 3.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256  # queries and keys of a tile of an attention map; one tile exists at a time
HIDDEN = -1e4  # the exponential of this is 0 in float32, and 0 times this is 0


@dataclass(frozen=True)
class AttentionStatistics:
    """Sums over queries, per head `[H]` in float64; those of several inputs add up."""

    distance: Tensor  # tokens, summed over queries
    entropy: Tensor  # nats, summed over queries
    queries: int

    @classmethod
    def merged(cls, parts: Sequence["AttentionStatistics"]) -> "AttentionStatistics":
        """The statistics of several inputs together."""
        distance, entropy = (
            torch.stack(sums).sum(0) for sums in zip(*((p.distance, p.entropy) for p in parts), strict=True)
        )
        return cls(distance, entropy, sum(part.queries for part in parts))

    @property
    def mean_attention_distance(self) -> Tensor:
        """Tokens between a query and what it attends to, an attention sink included, `[H]`: d_h of the paper."""
        return self.distance / self.queries

    @property
    def attention_entropy(self) -> Tensor:
        """Mean entropy of a query's attention in nats, `[H]`: H_h of the paper."""
        return self.entropy / self.queries


def attention_statistics(*, q: Tensor, k: Tensor, scaling: float, window: int | None = None) -> AttentionStatistics:
    """Statistics of the causal softmax attention of q and k, both `[B, T, H, K]`, as the teacher's layer sees them.

    Args:
        scaling: what q.k is multiplied with before the softmax.
        window: keys a query sees, itself included; all before it by default.
    """
    length, heads = q.shape[1:3]
    distance = torch.zeros(heads, dtype=torch.float64, device=q.device)
    entropy = torch.zeros_like(distance)
    for start in range(0, length, BLOCK):
        row_distance, row_entropy = _row_statistics(q[:, start : start + BLOCK], k, start, scaling, window)
        distance += row_distance.sum((0, 2), dtype=torch.float64)
        entropy += row_entropy.sum((0, 2), dtype=torch.float64)
    return AttentionStatistics(distance, entropy, q.shape[0] * length)


def _row_statistics(q: Tensor, k: Tensor, start: int, scaling: float, window: int | None) -> tuple[Tensor, Tensor]:
    """Distance and entropy `[B, H, R]` of R query rows that begin at `start`, from their tiles, in float32."""
    q = q.float().transpose(1, 2) * scaling  # [B, H, R, K]
    end = start + q.shape[2]
    rows = torch.arange(start, end, device=q.device)[:, None]
    largest = torch.full(q.shape[:3], -1e30, device=q.device)
    total, distance, weighted_scores = (torch.zeros_like(largest) for _ in range(3))
    first_seen = 0 if window is None else max(0, start - window + 1)
    # From the diagonal backwards: every row sees a key in its first tile.
    for key_end in range(end, first_seen, -BLOCK):
        key_start = max(first_seen, key_end - BLOCK)
        gap = rows - torch.arange(key_start, key_end, device=q.device)
        scores = q @ k[:, key_start:key_end].float().permute(0, 2, 3, 1)  # [B, H, R, keys]
        scores.masked_fill_((gap < 0) | (gap >= (math.inf if window is None else window)), -math.inf)
        before, largest = largest, torch.maximum(largest, scores.amax(-1))
        scores = scores.sub_(largest[..., None]).clamp_min_(HIDDEN)
        weights, grown = scores.exp(), largest - before
        weighted_scores = (weighted_scores - grown * total) * (-grown).exp() + (weights * scores).sum(-1)
        total = total * (-grown).exp() + weights.sum(-1)
        distance = distance * (-grown).exp() + (weights * gap.clamp_min(0)).sum(-1)
    return distance / total, total.log() - weighted_scores / total
