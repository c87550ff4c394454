# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How far and how sharply each head of the teacher looks: streamed statistics of its attention maps.

Maps are recomputed from queries and keys in blocks of query rows, so that no `T x T` map of a layer ever exists and the
teacher may use any attention kernel. Source: Taylor-Calibrate (arXiv 2606.16429), section 3.2.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

QUERY_BLOCK = 128  # query rows of an attention map that exist at the same time


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
        """Tokens between a query and what it attends to, `[H]`: d_h of the paper."""
        return self.distance / self.queries

    @property
    def attention_entropy(self) -> Tensor:
        """Mean entropy of a query's attention in nats, `[H]`: H_h of the paper."""
        return self.entropy / self.queries

    @property
    def attention_concentration(self) -> Tensor:
        """`[H]` in [0, 1]: 1 for the sharpest head of the layer, 0 for the most diffuse: c_h of the paper."""
        entropy = self.attention_entropy
        spread = (entropy.max() - entropy.min()).clamp_min(torch.finfo(entropy.dtype).eps)
        return 1.0 - (entropy - entropy.min()) / spread


def attention_statistics(*, q: Tensor, k: Tensor, scaling: float, window: int | None = None) -> AttentionStatistics:
    """Statistics of the causal softmax attention of q and k, both `[B, T, H, K]`, as the teacher's layer sees them.

    Args:
        scaling: what q.k is multiplied with before the softmax.
        window: keys a query sees, itself included; all before it by default.
    """
    heads = q.shape[2]
    distance = torch.zeros(heads, dtype=torch.float64, device=q.device)
    entropy = torch.zeros_like(distance)
    for start, attention in attention_blocks(q=q, k=k, scaling=scaling, window=window):
        rows = torch.arange(start, start + attention.shape[2], device=q.device)
        gap = (rows[:, None] - torch.arange(attention.shape[3], device=q.device)).clamp_min(0).to(attention.dtype)
        distance += (attention * gap).sum((0, 2, 3), dtype=torch.float64)
        entropy += -torch.xlogy(attention, attention).sum((0, 2, 3), dtype=torch.float64)
    return AttentionStatistics(distance, entropy, q.shape[0] * q.shape[1])


def attention_blocks(
    *, q: Tensor, k: Tensor, scaling: float, window: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Rows of the attention map, block by block: (first query, `[B, H, rows, keys up to the last row]`) in float32."""
    q, k = q.float().transpose(1, 2), k.float().permute(0, 2, 3, 1)  # [B, H, T, K], [B, H, K, T]
    for start in range(0, q.shape[2], QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, q.shape[2])
        scores = (q[:, :, start:end] * scaling) @ k[..., :end]
        gap = torch.arange(start, end, device=q.device)[:, None] - torch.arange(end, device=q.device)
        hidden = (gap < 0) | (gap >= (math.inf if window is None else window))
        yield start, scores.masked_fill(hidden, -math.inf).softmax(-1)
