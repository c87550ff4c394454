# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows with repeats on hand-made rows: which tokens they have, and that documents stay apart."""

import pytest
import torch

from hf_tc.data.repeating_rows import places_of_passages, places_of_row, with_repeats

LENGTH = 128


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("length", "passage_tokens", "places"),
    [
        (8, 2, [0, 1, 0, 1, 2, 3, 2, 3]),
        (7, 3, [0, 1, 2, 0, 1, 2, 3]),
        (9, 4, [0, 1, 2, 3, 0, 1, 2, 3, 4]),
    ],
)
def test_each_passage_is_followed_by_itself(length: int, passage_tokens: int, places: list[int]) -> None:
    assert places_of_passages(length, passage_tokens).tolist() == places


def test_documents_of_a_row_repeat_themselves_alone() -> None:
    positions = torch.cat([torch.arange(70), torch.arange(33), torch.arange(25)])
    places = places_of_row({"input_ids": torch.arange(LENGTH), "position_ids": positions}, generator())
    long, just_long_enough, short = places.split([70, 33, 25])
    assert long[0] == 0
    assert (long == 0).sum() == 1  # the first token, which may be bos, once
    assert long.max() < 70
    assert long.unique().numel() < 50
    assert just_long_enough.tolist() == [70, *range(71, 87), *range(71, 87)]
    assert short.tolist() == list(range(103, 128))


def test_every_column_follows_but_positions() -> None:
    tokens = torch.arange(LENGTH)
    labels = tokens.masked_fill(tokens % 3 == 0, -100)
    row = {"input_ids": tokens, "position_ids": tokens.clone(), "labels": labels}
    (repeated,) = with_repeats([row], 1.0, seed=0)
    assert torch.equal(repeated["position_ids"], tokens)
    assert not torch.equal(repeated["input_ids"], tokens)
    assert torch.equal(repeated["labels"], labels[repeated["input_ids"]])


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_a_share_of_the_rows_is_repeated(share: float, changed: int) -> None:
    rows = [{"input_ids": torch.arange(LENGTH) + number} for number in range(12)]
    found = list(with_repeats(rows, share, seed=0))
    others = [not torch.equal(row["input_ids"], other["input_ids"]) for row, other in zip(rows, found, strict=True)]
    assert sum(others) == changed
    assert all(row["input_ids"].min() == number for number, row in enumerate(found))


def test_the_seed_decides_and_lengths_differ() -> None:
    rows = [{"input_ids": torch.arange(LENGTH)} for _ in range(8)]
    first, again, other = ([row["input_ids"].tolist() for row in with_repeats(rows, 1.0, seed)] for seed in (0, 0, 9))
    assert first == again != other
    assert len({max(row) for row in first}) > 1
