# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Minibatches of the text and of what was made of it, the same for the same seed."""

from itertools import islice

import pytest
import torch

from hf_tc.data.training_sequences import training_sequences

BLOCKS = torch.arange(192).view(3, 64)


def test_every_block_comes_before_any_comes_again() -> None:
    rows = torch.cat(list(islice(training_sequences(BLOCKS, 4, 0), 3)))
    for first in (0, 6):
        assert sorted(rows[first : first + 6 : 2, 0].tolist()) == [0, 64, 128]


def test_every_row_begins_with_the_bos_of_all_blocks() -> None:
    for count in (1, len(BLOCKS)):
        blocks = torch.cat([torch.full((count, 1), 9_999), BLOCKS[:count]], dim=1)
        rows = next(training_sequences(blocks, 16, 0, torch.tensor([9_999])))
        assert (rows == 9_999).nonzero()[:, 1].tolist() == [0] * 16
        assert torch.equal(rows[:, 1:], next(training_sequences(BLOCKS[:count], 16, 0)))


def test_every_fourth_row_is_corrupted_and_every_fourth_repeats_passages() -> None:
    rows = torch.cat(list(islice(training_sequences(BLOCKS, 8, 0), 8)))
    corrupted, repeated = rows[1::4], rows[3::4]
    assert len({tuple(row.tolist()) for row in corrupted}) == 16
    assert 0.6 < (corrupted.diff(dim=1) == 1).float().mean() < 0.95
    lengths = {(row[1:] == row[0]).nonzero()[0].item() + 1 for row in repeated}
    assert len(lengths) > 4
    assert min(lengths) >= 16
    assert max(lengths) <= 32


@pytest.mark.parametrize("length", [4, 5, 24])
def test_short_blocks_repeat_too(length: int) -> None:
    rows = next(training_sequences(torch.arange(3 * length).view(3, length), 8, 0))
    assert rows.shape == (8, length)
    assert all(len(row.unique()) <= length - length // 2 + 1 for row in rows[3::4])


def test_the_seed_decides_all() -> None:
    first, again, other = (next(training_sequences(BLOCKS, 8, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
