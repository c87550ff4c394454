# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows of training data whose passages come twice, so that a distillation too asks for what only looking back can tell.

Plain text asks for it so seldom that a student which learns from it alone finds less again than before.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from hf_tc.data.packing import NOT_LEARNED
from hf_tc.data.repeated_passages import SHORTEST_PASSAGE, drawn_passage_tokens, places_of_passages

POSITIONS = "position_ids"


def with_repeats(rows: Iterable[dict[str, Tensor]], share: float, seed: int) -> Iterator[dict[str, Tensor]]:
    """The same rows, with repeated passages in about that share of them.

    Args:
        rows: `[T]` tensors by name, which say something of each token, with positions that restart at each document;
            without positions a row is one document.
        share: the probability of each row, in [0, 1].
        seed: decides which rows, and the lengths of passages.
    """
    generator = torch.Generator().manual_seed(seed)
    for row in rows:
        if torch.rand((), generator=generator) < share:
            places = places_of_row(row, generator)
            row = {name: value if name == POSITIONS else value[places] for name, value in row.items()}
        yield row


def places_of_row(row: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """From which place of the row each token is taken, `[T]`: of the same document, of which half or a little more is
    used.

    The first token of a document stays, which may be bos. A document too short for two passages is left as it is, and
    so is one of which not all is learned: of a conversation the answers come last.
    """
    count = len(next(iter(row.values())))
    positions, labels = row.get(POSITIONS, torch.arange(count)), row.get("labels", torch.zeros(count))
    first = positions.eq(0).nonzero().flatten().tolist() or [0]
    places = torch.arange(count)
    for start, end in zip(first, [*first[1:], count], strict=True):
        length = end - start - 1
        if length >= 2 * SHORTEST_PASSAGE and not (labels[start:end] == NOT_LEARNED).any():
            places[start + 1 : end] = start + 1 + places_of_passages(length, drawn_passage_tokens(length, generator))
    return places
