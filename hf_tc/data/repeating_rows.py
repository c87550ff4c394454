# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows of training data whose passages come twice, so that a distillation too asks for what only looking back can tell.

Plain text asks for it so seldom that a student which learns from it alone finds less again than before.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from hf_tc.data.repeated_passages import SHORTEST_PASSAGE, drawn_passage_tokens

POSITIONS = "position_ids"


def with_repeats(rows: Iterable[Mapping[str, Tensor]], share: float, seed: int) -> Iterator[dict[str, Tensor]]:
    """The same rows, passages repeated in a share of them that is spread evenly.

    Args:
        rows: `[T]` tensors by name, which say something of each token, with positions that restart at each document;
            without positions a row is one document.
        share: in [0, 1].
        seed: decides the lengths of passages.
    """
    for number, row in enumerate(rows):
        if math.floor((number + 1) * share) == math.floor(number * share):
            yield dict(row)
            continue
        places = places_of_row(row, torch.Generator().manual_seed(seed + number))
        yield {name: value if name == POSITIONS else value[places] for name, value in row.items()}


def places_of_row(row: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """From which place of the row each token is taken, `[T]`: always of the same document, so of its first half.

    The first token of a document stays, which may be bos, and a document too short for two passages as it is.
    """
    count = len(next(iter(row.values())))
    positions = row.get(POSITIONS, torch.arange(count))
    first = positions.eq(0).nonzero().flatten().tolist() or [0]
    places = torch.arange(count)
    for start, end in zip(first, [*first[1:], count], strict=True):
        length = end - start - 1
        if length >= 2 * SHORTEST_PASSAGE:
            places[start + 1 : end] = start + 1 + places_of_passages(length, drawn_passage_tokens(length, generator))
    return places


def places_of_passages(length: int, passage_tokens: int) -> Tensor:
    """Places `[length]` in a text by which passages of so many tokens come twice, the last pair of them cut."""
    place = torch.arange(length)
    return place // (2 * passage_tokens) * passage_tokens + place % passage_tokens
