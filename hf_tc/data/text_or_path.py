# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whether a string is text, or says where text is.

What exists as a file is a file. Of the rest, a string of several lines or of more than 255 characters is text. A
shorter one is the path of a missing file where it looks like a path, and a dataset of the Hub where it has the form of
an id. What is neither, such as a sentence, is an error by itself; in a list without files it makes all strings texts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LONGEST_NAME = 255  # characters of a file name, on every usual file system
DATA_SUFFIXES = frozenset(
    {".txt", ".text", ".md", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xz", ".gz"}
)
# Text that a teacher is to write itself: conversations, free text, or half of each; and the words for it as a source.
CHAT, FREE, BOTH = KINDS = ("chat", "free", "both")
SAMPLED = {"sampled": BOTH, "sampled:chat": CHAT, "sampled:free": FREE}
# name[:split[:column]]; a split may be train[:1000]
HUB_DATASET = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([^\s:\[]*(?:\[[^\]\s]*\])?))?(?::(.+))?", re.ASCII)


def is_text(source: str) -> bool:
    """Whether a string is text beyond doubt; no file of that name exists."""
    if os.path.exists(source):
        return False
    long = len(source) > LONGEST_NAME and (len(source.split()) > 1 or not looks_like_a_path(source))
    return "\n" in source or long


def are_texts(items: Sequence[Any]) -> bool:
    """Whether strings are texts, not files and datasets: none is a file, and at least one is neither path nor id."""
    if not all(isinstance(item, str) for item in items) or any(map(os.path.exists, items)):
        return False
    return any(is_text(item) or is_neither(item) for item in items)


def is_neither(source: str) -> bool:
    """Whether a short string is neither a path nor the id of a dataset by its looks."""
    return not looks_like_a_path(source) and HUB_DATASET.fullmatch(source) is None


def looks_like_a_path(source: str) -> bool:
    """Whether a string is the path of a file, existing or not, by its looks."""
    if source.startswith(("/", "./", "../", "~")) or Path(source).suffix.lower() in DATA_SUFFIXES:
        return True
    return source.count("/") > 1 and len(source.split()) == 1
