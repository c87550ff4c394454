# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Does evaluation text also stand in the calibration text? Then figures measured on it look better than they are.

Texts are compared by their windows of 32 tokens, at every offset, so that a passage is found wherever it stands. Of the
evaluation text's windows each counts once: a system prompt or licence that stands above every document weighs little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hf_tc.data.text_files import CalibrationDataError

WINDOW = 32  # tokens; shorter ones are phrases that any two texts of a kind share
SHORTEST_WINDOW = 16
LARGEST_SHARE = 0.01
_SHOWN_TOKENS = 24
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with well mixed bits


@dataclass(frozen=True)
class Overlap:
    """What an evaluation text `[M, T]` shares with another.

    share: of the different windows of the evaluation text, how many also stand in the other.
    block, start, stop: the first shared passage: its tokens are `evaluation[block, start:stop]`.
    """

    share: float
    block: int = 0
    start: int = 0
    stop: int = 0


def text_overlap(evaluation: Tensor, calibration: Tensor) -> Overlap:
    """Compares blocks of token ids `[M, T]` with blocks `[N, U]`; no window reaches over the end of a block.

    In blocks below 64 tokens windows are half a block, down to 16 tokens: longer ones would fit at few offsets.
    Windows are compared by a 64-bit hash; the time is that of sorting them. A million tokens take a second or two.
    """
    length = min(evaluation.shape[1], calibration.shape[1])
    window = min(length, max(SHORTEST_WINDOW, min(WINDOW, length // 2)))
    hashes = ngram_hashes(evaluation.cpu().numpy(), window)  # [M, T - window + 1]
    different = np.unique(hashes)
    other = ngram_hashes(calibration.cpu().numpy(), window).ravel()
    places = np.searchsorted(different, other).clip(max=len(different) - 1)
    found = np.unique(different[places[different[places] == other]])
    if not len(found):
        return Overlap(0.0)
    shared = np.isin(hashes, found)
    block = int(shared.any(axis=1).argmax())
    start = int(shared[block].argmax())
    run = shared[block, start:]
    length = len(run) if run.all() else int(run.argmin())
    return Overlap(len(found) / len(different), block, start, start + length + window - 1)


def ngram_hashes(tokens: np.ndarray, window: int) -> np.ndarray:
    """A hash of every window of that many tokens of each row: `[N, T]` to unsigned 64-bit `[N, T - window + 1]`.

    A polynomial of the mixed token ids modulo 2^64.
    """
    with np.errstate(over="ignore"):
        mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER
        count = tokens.shape[1] - window + 1
        hashes = np.zeros((len(tokens), count), dtype=np.uint64)
        for offset in range(window):
            hashes *= _MULTIPLIER
            hashes += mixed[:, offset : offset + count]
    return hashes ^ (hashes >> np.uint64(32))


def check_contamination(evaluation: Tensor, calibration: Tensor, tokenizer: Any) -> None:
    """Refuses evaluation blocks of which more than 1 % stands in the calibration blocks.

    Raises:
        CalibrationDataError: says how much it is, where, and what to do.
    """
    overlap = text_overlap(evaluation, calibration)
    if overlap.share <= LARGEST_SHARE:
        return
    shown = evaluation[overlap.block, overlap.start : min(overlap.stop, overlap.start + _SHOWN_TOKENS)]
    start, stop = (overlap.block * evaluation.shape[1] + place for place in (overlap.start, overlap.stop))
    raise CalibrationDataError(
        f"{overlap.share:.1%} of the evaluation text also stands in the calibration text, {LARGEST_SHARE:.0%} is "
        f"allowed: figures measured on it would look better than they are. First its tokens {start:,} to {stop:,}, "
        f"{tokenizer.decode(shown)!r}. Evaluate on other text: another file, another split (name:validation), or none, "
        "which sets part of the calibration text aside."
    )
