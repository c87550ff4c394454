# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Fingerprints: the same for the same tensors wherever their bytes lie, another for anything else."""

import pytest
import torch

from hf_tc import fingerprint as module
from hf_tc.fingerprint import LETTERS, fingerprint

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
