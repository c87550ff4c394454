# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Passages that come twice: where they are from, and which of their tokens count as second copies."""

import pytest
import torch

from hf_tc.data.repeated_passages import near_and_far, repeat_passages, repeated_passages

BLOCKS = torch.arange(60).view(5, 12)  # every token once, in order


def test_each_passage_is_followed_by_itself_and_then_by_the_next() -> None:
    rows = repeat_passages(torch.tensor([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 1, 1]]]))
    assert rows.input_ids.tolist() == [[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6], [7, 8, 9, 7, 8, 9, 1, 1, 1, 1, 1, 1]]
    marked = [False] * 4 + [True] * 2  # the first token of a second copy is announced by nothing
    assert rows.second_copies.tolist() == [marked * 2, marked * 2]


@pytest.mark.parametrize("passage_tokens", [2, 3, 4, 5, 6])
def test_rows_are_pieces_of_the_text_at_any_length(passage_tokens: int) -> None:
    ids, second = repeated_passages(BLOCKS, 7, seed=1, passage_tokens=passage_tokens)
    assert ids.shape == second.shape == (7, 12)
    for row, marks in zip(ids, second, strict=True):
        assert marks.tolist() == [place % (2 * passage_tokens) > passage_tokens for place in range(12)]
        for place in range(12):
            if marks[place]:
                assert row[place] == row[place - passage_tokens]
            if place % passage_tokens:
                assert row[place] == row[place - 1] + 1  # passages are contiguous


@pytest.mark.parametrize("count", [1, 5])
def test_rows_begin_as_the_blocks_do(count: int) -> None:
    blocks = torch.cat([torch.full((5, 1), 99), BLOCKS], dim=1)[:count]
    rows = near_and_far(blocks, torch.tensor([99]))
    assert rows.input_ids.shape == rows.second_copies.shape == (count, 13)
    assert (rows.input_ids == 99).nonzero()[:, 1].tolist() == [0] * count  # and nowhere else
    plain = near_and_far(BLOCKS[:count])
    assert torch.equal(rows.input_ids[:, 1:], plain.input_ids)
    assert torch.equal(rows.second_copies[:, 1:], plain.second_copies)
    assert not rows.second_copies[:, 0].any()


def test_places_are_those_of_the_seed_and_cross_blocks() -> None:
    one, again, other = (repeated_passages(BLOCKS, 50, seed, 6).input_ids for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert {0, 54} <= set(one[:, 0].tolist())  # the first and the last place there is
    assert any(start % 12 > 6 for start in one[:, 0].tolist())


@pytest.mark.parametrize("passage_tokens", [0, 1, 7])
def test_passages_that_cannot_come_twice_are_refused(passage_tokens: int) -> None:
    message = f"passage_tokens is {passage_tokens}; .* block of 12 tokens has from 2 to 6"
    with pytest.raises(ValueError, match=message):
        repeated_passages(BLOCKS, 1, 0, passage_tokens)
