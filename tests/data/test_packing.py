# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows of several documents, and what a text begins with where it goes on in another row."""

import pytest

from hf_tc.data.packing import Documents, packed
from hf_tc.data.training_documents import TokenisedDocument

BOS, FILLER = 1, 0


def text(tokens: range, prefix: tuple[int, ...]) -> TokenisedDocument:
    ids = [*prefix, *tokens]
    return TokenisedDocument(ids, [True] * len(ids), is_conversation=False, prefix=prefix)


def test_a_text_begins_with_bos_again_where_it_goes_on() -> None:
    documents = Documents([text(range(10, 18), (BOS,)), text(range(20, 22), (BOS,))])
    rows = list(packed(documents, 4, FILLER))
    assert [row.input_ids.tolist() for row in rows] == [
        [BOS, 10, 11, 12],
        [BOS, 13, 14, 15],
        [BOS, 16, 17, BOS],
        [BOS, 20, 21, FILLER],
    ]
    assert rows[2].position_ids.tolist() == [0, 1, 2, 0]


def test_a_text_without_bos_goes_on_with_its_next_token() -> None:
    rows = packed(Documents([text(range(10, 16), ())]), 4, FILLER)
    assert [row.input_ids.tolist() for row in rows] == [[10, 11, 12, 13], [14, 15, FILLER, FILLER]]


@pytest.mark.parametrize("prefix", [(), (BOS,)])
def test_pieces_of_a_text_hold_all_of_it(prefix: tuple[int, ...]) -> None:
    pieces = list(text(range(10, 18), prefix).pieces(3))
    assert all(piece.input_ids[: len(prefix)] == [*prefix] for piece in pieces)
    assert [token for piece in pieces for token in piece.input_ids[len(prefix) :]] == [*range(10, 18)]
    assert all(len(piece.input_ids) == len(piece.is_learned) <= 3 for piece in pieces)


def test_a_last_token_alone_is_not_learned_from_bos() -> None:
    assert [piece.input_ids for piece in text(range(10, 15), (BOS,)).pieces(3)] == [[BOS, 10, 11], [BOS, 12, 13]]
