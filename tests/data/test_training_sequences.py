# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Minibatches of the text and of what was made of it, the same for the same seed."""

from itertools import islice

import torch

from hf_tc.data.training_sequences import training_sequences

BLOCKS = torch.arange(60).view(3, 20)


def test_every_block_comes_before_any_comes_again_and_every_other_row_is_corrupted() -> None:
    rows = torch.cat(list(islice(training_sequences(BLOCKS, 4, 0), 3)))
    for first in (0, 6):
        assert sorted(rows[first : first + 6 : 2, 0].tolist()) == [0, 20, 40]
    corrupted = rows[1::2]
    assert len({tuple(row.tolist()) for row in corrupted}) == 6
    assert 0.6 < (corrupted.diff(dim=1) == 1).float().mean() < 0.95


def test_the_seed_decides_all() -> None:
    first, again, other = (next(training_sequences(BLOCKS, 8, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
