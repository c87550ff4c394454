# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Documents into rows of equal length, several in a row, kept apart by positions that restart.

A text goes on in the next row where its own is full, as a document without what came before, and with bos again where
texts have one. A conversation is never cut in two: it goes into the row with the least room that holds it, of a few
that are open, and what is longer than a row loses its end. Room that is left is filled by a document of which nothing
is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hf_tc.data.training_documents import TokenisedDocument

OPEN_ROWS = 32  # of conversations, at the same time
NOT_LEARNED = -100


class Row(NamedTuple):
    """Tokens, their positions inside their document, and labels (the token, or -100 where it is not learned), `[T]`."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor


class Documents(Iterator[TokenisedDocument]):
    """Documents to be read once, of which one that was read can be put back, to be read next."""

    def __init__(self, documents: Iterable[TokenisedDocument]) -> None:
        self._rest = iter(documents)
        self._returned: TokenisedDocument | None = None

    def __next__(self) -> TokenisedDocument:
        document, self._returned = self._returned, None
        return next(self._rest) if document is None else document

    def put_back(self, document: TokenisedDocument) -> None:
        """Has this document, the last one that was read or a part of it, read again."""
        self._returned = document


class OpenRow:
    """A row that is being filled."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._labels: list[int] = []

    @property
    def room(self) -> int:
        return self.length - len(self._ids)

    def add(self, document: TokenisedDocument) -> None:
        self._ids += document.input_ids
        self._positions += range(len(document.input_ids))
        learned = zip(document.input_ids, document.is_learned, strict=True)
        self._labels += [token if is_learned else NOT_LEARNED for token, is_learned in learned]

    def finished(self, filler: int) -> Row:
        """The row, with its room filled."""
        room = self.room
        self.add(TokenisedDocument([filler] * room, [False] * room, is_conversation=False))
        return Row(torch.tensor(self._ids), torch.tensor(self._positions), torch.tensor(self._labels))


def packed(documents: Documents, length: int, filler: int) -> Iterator[Row]:
    """Rows `[length]` of documents, in about their order.

    Documents are read as far as rows are asked for; what did not get into a row of a text is put back. A document of
    which nothing is learned is left out, and so is the end of a conversation that is longer than a row.

    Args:
        length: tokens of a row, at least 2.
        filler: the token in what is left of a row.
    """
    texts, conversations = OpenRow(length), list[OpenRow]()
    for document in documents:
        if document.is_conversation:
            document = document.first(length)
            closed = _put(document, conversations, length) if document.teaches else []
            yield from (row.finished(filler) for row in closed)
            continue
        if (rest := document.after(texts.room)) is not None:
            documents.put_back(rest)
        texts.add(document.first(texts.room))
        if texts.room == 0:
            yield texts.finished(filler)
            texts = OpenRow(length)
    yield from (row.finished(filler) for row in (texts, *conversations) if row.room < length - 1)


def _put(document: TokenisedDocument, rows: list[OpenRow], length: int) -> list[OpenRow]:
    """Adds a document to one of the open rows or a new one; gives those that are closed by it."""
    closed = []
    fitting = [row for row in rows if row.room >= len(document.input_ids)]
    if not fitting:
        if len(rows) == OPEN_ROWS:
            closed.append(min(rows, key=lambda row: row.room))
        fitting = [OpenRow(length)]
        rows += fitting
    chosen = min(fitting, key=lambda row: row.room)
    chosen.add(document)
    if chosen.room < 2:
        closed.append(chosen)
    for row in closed:
        rows.remove(row)
    return closed


def joined(rows: Iterable[Row], count: int) -> Iterator[Row]:
    """Every `count` rows as one; what is left at the end is too little for one and is dropped."""
    together: list[Row] = []
    for row in rows:
        together.append(row)
        if len(together) == count:
            yield Row(*map(torch.cat, zip(*together, strict=True)))
            together = []
