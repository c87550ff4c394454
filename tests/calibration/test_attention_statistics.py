# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Attention statistics against maps whose distances and entropies are worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tc.calibration.attention_statistics import BLOCK, AttentionStatistics, attention_statistics

LENGTHS = [1, BLOCK - 1, BLOCK, BLOCK + 1, 600]


def random_queries(length: int, heads: int = 2, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, length, heads, 8, generator=generator) for _ in "qk")


def slow_statistics(q: Tensor, k: Tensor, scaling: float, window: int | None = None) -> tuple[Tensor, Tensor]:
    """Mean distance and entropy, row by row, in float64."""
    batch, length, heads = q.shape[:3]
    distance, entropy = torch.zeros(heads, dtype=torch.float64), torch.zeros(heads, dtype=torch.float64)
    for t in range(length):
        first = 0 if window is None else max(0, t - window + 1)
        row = (torch.einsum("bhk,bihk->bhi", q[:, t].double(), k[:, first : t + 1].double()) * scaling).softmax(-1)
        distance += (row * torch.arange(t - first, -1, -1)).sum((0, 2))
        entropy += torch.special.entr(row).sum((0, 2))
    return distance / (batch * length), entropy / (batch * length)


@pytest.mark.parametrize("length", LENGTHS)
def test_uniform_attention(length: int) -> None:
    zero = torch.zeros(1, length, 1, 4)
    statistics = attention_statistics(q=zero, k=torch.randn(1, length, 1, 4), scaling=1.0)
    distance = sum(t / 2 for t in range(length)) / length
    entropy = sum(math.log(t + 1) for t in range(length)) / length
    assert statistics.mean_attention_distance.item() == pytest.approx(distance, rel=1e-5)
    assert statistics.attention_entropy.item() == pytest.approx(entropy, rel=1e-5)
    assert statistics.queries == length


def test_each_token_attends_to_itself() -> None:
    q = k = 10 * torch.eye(6)[None, :, None]
    statistics = attention_statistics(q=q, k=k, scaling=1.0)
    assert statistics.mean_attention_distance.item() == pytest.approx(0, abs=1e-30)
    assert statistics.attention_entropy.item() == pytest.approx(0, abs=1e-30)


def test_all_attend_to_the_first_token() -> None:
    q = torch.ones(2, 5, 1, 1)
    k = torch.zeros(2, 5, 1, 1)
    k[:, 0] = 100.0
    statistics = attention_statistics(q=q, k=k, scaling=1.0)
    assert statistics.mean_attention_distance.item() == pytest.approx((0 + 1 + 2 + 3 + 4) / 5)
    assert statistics.attention_entropy.item() == pytest.approx(0, abs=1e-12)
    assert statistics.queries == 10


@pytest.mark.parametrize("window", [1, 3, 200])
def test_uniform_attention_in_a_window(window: int) -> None:
    length = 300
    statistics = attention_statistics(
        q=torch.zeros(1, length, 1, 4), k=torch.randn(1, length, 1, 4), scaling=1.0, window=window
    )
    seen = [min(t + 1, window) for t in range(length)]
    assert statistics.mean_attention_distance.item() == pytest.approx(sum((n - 1) / 2 for n in seen) / length, rel=1e-5)
    assert statistics.attention_entropy.item() == pytest.approx(sum(math.log(n) for n in seen) / length, rel=1e-5)


@pytest.mark.parametrize("window", [None, 40, BLOCK + 30])
@pytest.mark.parametrize("length", LENGTHS)
def test_tiles_equal_the_whole_map(length: int, window: int | None) -> None:
    q, k = random_queries(length)
    distance, entropy = slow_statistics(q, k, 0.7, window)
    statistics = attention_statistics(q=q, k=k, scaling=0.7, window=window)
    torch.testing.assert_close(statistics.mean_attention_distance, distance, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.attention_entropy, entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("far_scores", [-3e4, 3e4])
def test_tiles_of_very_different_scores(far_scores: float) -> None:
    length = 2 * BLOCK + 7
    q, k = torch.ones(1, length, 1, 1), torch.zeros(1, length, 1, 1)
    k[:, :5] = far_scores
    distance, entropy = slow_statistics(q, k, 1.0)
    statistics = attention_statistics(q=q, k=k, scaling=1.0)
    torch.testing.assert_close(statistics.mean_attention_distance, distance, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.attention_entropy, entropy, rtol=1e-5, atol=1e-6)


def test_bfloat16_queries_are_computed_in_float32() -> None:
    q, k = (x.bfloat16() for x in random_queries(70))
    low = attention_statistics(q=q, k=k, scaling=1.0)
    distance, entropy = slow_statistics(q, k, 1.0)
    torch.testing.assert_close(low.mean_attention_distance, distance, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(low.attention_entropy, entropy, rtol=1e-5, atol=1e-6)


def test_parts_of_different_length_merge_to_the_whole() -> None:
    q, k = random_queries(70, batch=5)
    whole = attention_statistics(q=q, k=k, scaling=1.0)
    parts = [attention_statistics(q=q[rows], k=k[rows], scaling=1.0) for rows in (slice(0, 1), slice(1, 5))]
    merged = AttentionStatistics.merged(parts)
    assert merged.queries == whole.queries == 350
    torch.testing.assert_close(merged.mean_attention_distance, whole.mean_attention_distance)
    torch.testing.assert_close(merged.attention_entropy, whole.attention_entropy)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("blocks", [2, 8])
def test_memory_per_head_is_a_tile_at_any_length(blocks: int) -> None:
    q, k = random_queries(blocks * BLOCK, heads=3, batch=1)
    with LargestTensor() as largest:
        attention_statistics(q=q, k=k, scaling=1.0)
    assert largest.numel == 3 * BLOCK * BLOCK
