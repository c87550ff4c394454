# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What calibration text is made of: one source, or several with shares, such as {"wiki.txt": 0.5, "sampled": 0.5}.

A source is what `read_documents` reads, or one of the words for text that the teacher itself writes. Nothing heavy is
imported: the help of the command line reads this module.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_tc.assets import sample_text_path
from hf_tc.data.text_files import CalibrationDataError, source_name
from hf_tc.data.text_or_path import BOTH, CHAT, FREE, SAMPLED

PACKAGED_TOKENS = 65_536  # that any usual tokenizer makes of the packaged text, at least
SHIPPED_SAMPLE = "the sample text that ships with hf_tc"
SHARES_ADD_UP_WITHIN = 1e-3
_SAMPLED_NAMES = {
    BOTH: "text sampled from the teacher",
    CHAT: "conversations sampled from the teacher",
    FREE: "free text sampled from the teacher",
}


@dataclass(frozen=True)
class Source:
    """One source and its share of the tokens."""

    data: Any
    share: float = 1.0

    @property
    def sampled_kind(self) -> str | None:
        """The kind of text to sample from the teacher, None for text that is read."""
        return SAMPLED.get(self.data) if isinstance(self.data, str) else None

    @property
    def name(self) -> str:
        if self.sampled_kind is not None:
            return _SAMPLED_NAMES[self.sampled_kind]
        return SHIPPED_SAMPLE if self.data == sample_text_path("calibration") else source_name(self.data)


def default_data(blocks: int, sequence_length: int, teacher_on_gpu: bool) -> Any:
    """Calibration data where none is given: the packaged text, and as much or more that the teacher samples.

    That keeps more of a teacher than the packaged text alone (tests/benchmarks/README.md). On a CPU, where sampling
    would take longer than all the rest, it is the packaged text alone.
    """
    packaged, most = sample_text_path("calibration"), PACKAGED_TOKENS // sequence_length
    if not teacher_on_gpu or most < 1 or blocks < 2:
        return packaged
    share = min(0.5, most / blocks)
    return {packaged: share, "sampled": 1 - share}


def sources_of(data: Any) -> list[Source]:
    """The sources of calibration data: those of a mixture, or all of it as one.

    Raises:
        CalibrationDataError: a share is not above 0, they do not add up to 1, or text is to be sampled in a list
            without shares.
    """
    if is_mixture(data):
        sources = [Source(source, float(share)) for source, share in data.items()]
        _check_shares(sources)
        return sources
    if isinstance(data, list | tuple) and any(isinstance(item, str) and item in SAMPLED for item in data):
        raise CalibrationDataError(
            f"Calibration data is the list {list(data)}, and what is sampled has no end. Give each source a share: "
            "{'wiki.txt': 0.5, 'sampled': 0.5}, on the command line wiki.txt=0.5 sampled=0.5."
        )
    return [Source(data)]


def is_mixture(data: Any) -> bool:
    """Whether data is a mapping from sources to shares."""
    return isinstance(data, Mapping) and bool(data) and all(isinstance(share, int | float) for share in data.values())


def mixture_name(sources: Sequence[Source]) -> str:
    """What the text is called in a report, such as "wiki.txt (0.25), text sampled from the teacher (0.75)"."""
    if len(sources) == 1:
        return sources[0].name
    return ", ".join(f"{source.name} ({source.share:g})" for source in sources)


def shown_data(data: Any) -> Any:
    """Calibration data as a report shows an argument: text by its name."""
    return {source_name(source): share for source, share in data.items()} if is_mixture(data) else source_name(data)


def data_of_words(words: Sequence[str]) -> Any:
    """The data that a command line names: `SOURCE=SHARE ...` as a mapping, one source as itself, several as a list.

    Raises:
        CalibrationDataError: some sources have a share and others do not, or one is named twice; or a share is no
            number.
    """
    parted = [
        (name, share) for name, _, share in (word.rpartition("=") for word in words) if name and _is_number(share)
    ]
    for word in words:
        name, _, share = word.rpartition("=")
        is_source = name in SAMPLED or (os.path.exists(name) and not os.path.exists(word))
        if is_source and not _is_number(share):
            raise CalibrationDataError(
                f"The share of {name} is {share!r}, which is no number. Give a part of 1, such as {name}=0.5."
            )
    if not parted:
        return words[0] if len(words) == 1 else list(words)
    if without := [word for word in words if word not in {f"{name}={share}" for name, share in parted}]:
        raise CalibrationDataError(
            f"{without[0]} has no share, and {parted[0][0]} has. Give all sources a share or none: wiki.txt=0.5 "
            "sampled=0.5."
        )
    names = [name for name, _ in parted]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CalibrationDataError(f"{twice[0]} is given twice. Give each source once, with the sum of its shares.")
    return {name: float(share) for name, share in parted}


def blocks_of_sources(sources: Sequence[Source], blocks: int) -> list[int]:
    """How many of so many blocks each source gives: whole blocks, next to the shares.

    Raises:
        CalibrationDataError: a share is less than one block.
    """
    total = sum(source.share for source in sources)
    exact = [source.share / total * blocks for source in sources]
    counts = [int(part) for part in exact]
    by_remainder = sorted(range(len(sources)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: blocks - sum(counts)]:
        counts[index] += 1
    for source, count in zip(sources, counts, strict=True):
        if count == 0:
            raise CalibrationDataError(
                f"The share {source.share:g} of {source.name} is less than one of {blocks} blocks. Raise the share or "
                "calibration_tokens, or lower sequence_length."
            )
    return counts


def _check_shares(sources: Sequence[Source]) -> None:
    shown = ", ".join(f"{source.name} {source.share:g}" for source in sources)
    for source in sources:
        if not 0 < source.share <= 1:
            raise CalibrationDataError(
                f"The share of {source.name} is {source.share:g}; each must be above 0 and at most 1. Give one, or "
                "leave the source out."
            )
    total = math.fsum(source.share for source in sources)
    if not abs(total - 1) <= SHARES_ADD_UP_WITHIN:
        raise CalibrationDataError(
            f"The shares of the calibration data add up to {total:g} ({shown}); they must add up to 1. Change one by "
            f"{1 - total:+.3g}."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
