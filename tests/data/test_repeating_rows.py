# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows with repeats on hand-made rows: which tokens they have, and that documents stay apart."""

import pytest
import torch

from hf_tc.data.repeated_passages import places_of_passages
from hf_tc.data.repeating_rows import places_of_row, with_repeats

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
    row = {"input_ids": tokens, "position_ids": tokens.clone(), "labels": tokens + 1000}
    (repeated,) = with_repeats([row], 1.0, seed=0)
    assert torch.equal(repeated["position_ids"], tokens)
    assert not torch.equal(repeated["input_ids"], tokens)
    assert torch.equal(repeated["labels"], repeated["input_ids"] + 1000)


def test_what_is_learned_in_part_stays_as_it_is() -> None:
    """The prompt of a conversation, twice, would push its answer out."""
    tokens = torch.arange(LENGTH)
    labels = torch.cat([tokens[:64], torch.full((40,), -100), tokens[104:]])
    positions = torch.cat([torch.arange(64), torch.arange(64)])
    (row,) = with_repeats([{"input_ids": tokens, "position_ids": positions, "labels": labels}], 1.0, seed=0)
    assert row["input_ids"][:64].unique().numel() < 64
    assert torch.equal(row["input_ids"][64:], tokens[64:])
    assert torch.equal(row["labels"][64:], labels[64:])


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.25, 80, 120), (0.5, 175, 225), (1.0, 400, 400)])
def test_a_share_of_the_rows_is_repeated(share: float, fewest: int, most: int) -> None:
    rows = [{"input_ids": torch.arange(LENGTH) + number} for number in range(400)]
    found = list(with_repeats(rows, share, seed=0))
    others = [not torch.equal(row["input_ids"], other["input_ids"]) for row, other in zip(rows, found, strict=True)]
    assert fewest <= sum(others) <= most
    assert 0.4 * sum(others) <= sum(others[::2]) <= 0.6 * sum(others)  # no pattern that data of two kinds could have
    assert all(row["input_ids"].min() == number for number, row in enumerate(found))


def test_the_seed_decides_and_lengths_differ() -> None:
    rows = [{"input_ids": torch.arange(LENGTH)} for _ in range(8)]
    first, again, other = ([row["input_ids"].tolist() for row in with_repeats(rows, 1.0, seed)] for seed in (0, 0, 9))
    assert first == again != other
    assert len({max(row) for row in first}) > 1
