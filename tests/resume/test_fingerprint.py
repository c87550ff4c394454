# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Fingerprints: the same for the same tensors wherever their bytes lie, another for anything else."""

import pytest
import torch

from hf_tc.resume import fingerprint as module
from hf_tc.resume.fingerprint import LETTERS, fingerprint, same_weights, weights_fingerprint

A, B = torch.arange(12.0).view(3, 4), torch.tensor(7, dtype=torch.int32)


def test_equal_tensors_have_the_same_fingerprint() -> None:
    expected = fingerprint([A, B])
    assert len(expected) == LETTERS
    assert fingerprint(tensor.clone() for tensor in (A, B)) == expected
    assert fingerprint([A.T.contiguous().T, B.clone().requires_grad_(False)]) == expected


@pytest.mark.parametrize(
    "others",
    [
        [B, A],
        [A],
        [A, B, B],
        [A.view(4, 3), B],
        [A.T, B],
        [A.double(), B],
        [A.flip(0), B],  # the same numbers, and so the same sum
        [torch.where(A == 0, -0.0, A), B],
        [A, B + 1],
    ],
)
def test_anything_else_has_another(others: list[torch.Tensor]) -> None:
    assert fingerprint(others) != fingerprint([A, B])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.float8_e4m3fn])
def test_every_dtype_has_one(dtype: torch.dtype) -> None:
    assert fingerprint([A.to(dtype)]) == fingerprint([A.to(dtype)]) != fingerprint([(A == 1).to(dtype)])
    assert fingerprint([torch.empty(0, dtype=dtype)])


def test_a_byte_in_any_chunk_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 16)
    tensor = torch.zeros(21)
    found = {fingerprint([tensor])}
    for place in (0, 3, 4, 11, 20):
        found.add(fingerprint([tensor.index_fill(0, torch.tensor(place), 1.0)]))
    assert len(found) == 6


def random_weights(scale: float = 0.02, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in ((256, 128), (128,), (4,), (1,), (128, 256))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_the_same_in_any_precision_order_and_number_of_copies(dtype: torch.dtype) -> None:
    weights = random_weights()
    saved = [weight.to(dtype) for weight in (*reversed(weights), weights[0])]
    assert same_weights(weights_fingerprint(weights), weights_fingerprint(saved))
    assert same_weights(weights_fingerprint(weights), weights_fingerprint([weight.float() for weight in saved]))
    if dtype == torch.float32:
        assert weights_fingerprint(weights) == weights_fingerprint(saved)


def test_other_weights_are_not_the_same() -> None:
    weights = random_weights()
    found = weights_fingerprint(weights)
    changed = {
        "one step of training": [weight + 1e-5 * torch.sign(weight) for weight in weights],
        "one tensor": [weights[0] * 1.01, *weights[1:]],
        "one missing": weights[1:],
        "shape": [weights[0].reshape(128, 256), *weights[1:]],
        "others": random_weights(seed=1),
    }
    for what, others in changed.items():
        assert not same_weights(found, weights_fingerprint(others)), what
    for nothing in ({}, None):
        assert not same_weights(found, nothing)
        assert not same_weights(nothing, found)
        assert not same_weights(nothing, nothing)


@pytest.mark.parametrize("shape", [(4096, 4096), (1000, 64), (64, 1000)])
def test_samples_are_spread_over_rows_and_columns(shape: tuple[int, int]) -> None:
    found = weights_fingerprint([torch.zeros(shape)])
    for dim, size in enumerate(shape):
        for half in (slice(None, size // 2), slice(size // 2, None)):
            changed = torch.zeros(shape)
            changed.movedim(dim, 0)[half] = 1.0
            assert not same_weights(found, weights_fingerprint([changed]))
