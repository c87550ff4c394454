# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Does evaluation text also stand in what was fitted or trained on? Then figures on it look better than they are.

Texts are compared by their n-grams of 32 tokens, at every offset, so that a passage is found wherever it stands. Of the
evaluation text's n-grams each counts once: a system prompt or licence that stands above every document weighs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hf_tc.data.text_files import CalibrationDataError

NGRAM = 32  # tokens; shorter ones are phrases that any two texts of a kind share
SHORTEST_NGRAM = 16
MOST_SHARED = 0.01
_SHOWN_TOKENS = 24


@dataclass(frozen=True)
class Overlap:
    """What an evaluation text `[M, T]` shares with another.

    share: of the different n-grams of the evaluation text, how many also stand in the other.
    block, start, stop: the first shared passage: its tokens are `evaluation[block, start:stop]`.
    """

    share: float
    block: int = 0
    start: int = 0
    stop: int = 0


def text_overlap(evaluation: Tensor, calibration: Tensor | Sequence[Tensor]) -> Overlap:
    """Compares blocks of token ids `[M, T]` with blocks `[N, U]`, or rows `[U]` of several lengths; no n-gram reaches
    over the end of a block.

    In blocks below 64 tokens n-grams are half a block, down to 16 tokens: longer ones would fit at few offsets.
    A million tokens against as many take less than a second, and 160 bytes a token of the evaluation text.
    """
    length = min(evaluation.shape[1], max(map(len, calibration)))
    size = min(length, max(SHORTEST_NGRAM, min(NGRAM, length // 2)))
    rows = [ngrams(row, size) for row in evaluation]
    different = set().union(*rows)
    found = set[bytes]().union(*(different.intersection(ngrams(row, size)) for row in calibration))
    if not found:
        return Overlap(0.0)
    block = next(index for index, row in enumerate(rows) if not found.isdisjoint(row))
    shared = [ngram in found for ngram in rows[block]]
    start = shared.index(True)
    end = shared.index(False, start) if False in shared[start:] else len(shared)
    return Overlap(len(found) / len(different), block, start, end + size - 1)


def ngrams(tokens: Tensor, size: int) -> list[bytes]:
    """The n-grams of `size` tokens of a row of ids `[T]`, in order: T - size + 1 strings of their bytes.

    Python's set of bytes compares them exactly; on a million tokens it takes a third of the time that numpy's `unique`
    takes to sort `sliding_window_view`'s rows.
    """
    ids = tokens.cpu().numpy().astype(np.int32)
    return [ids[start : start + size].tobytes() for start in range(len(ids) - size + 1)]


def check_contamination(
    evaluation: Tensor,
    calibration: Tensor | Sequence[Tensor],
    tokenizer: Any,
    seen: str = "calibration text",
    otherwise: str = "which sets part of the calibration text aside",
) -> None:
    """Refuses evaluation blocks of which more than 1 % stands in the blocks or rows of a conversion or a training.

    Args:
        seen: what the message calls these.
        otherwise: what it says is measured on where no evaluation text is given.

    Raises:
        CalibrationDataError: says how much it is, where, and what to do.
    """
    overlap = text_overlap(evaluation, calibration)
    if overlap.share <= MOST_SHARED:
        return
    shown = evaluation[overlap.block, overlap.start : min(overlap.stop, overlap.start + _SHOWN_TOKENS)]
    start, stop = (overlap.block * evaluation.shape[1] + place for place in (overlap.start, overlap.stop))
    raise CalibrationDataError(
        f"{overlap.share:.1%} of the evaluation text also stands in the {seen}, {MOST_SHARED:.0%} is "
        f"allowed: figures measured on it would look better than they are. First its tokens {start:,} to {stop:,}, "
        f"{tokenizer.decode(shown)!r}. Evaluate on other text: another file, another split (name:validation), or none, "
        f"{otherwise}."
    )
