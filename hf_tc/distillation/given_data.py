# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a data set of a distillation may be given as: text in any form that `read_documents` takes, rows or tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import has_length

from hf_tc.data.conversations import CONVERSATION_COLUMNS
from hf_tc.data.row_files import TEXT_COLUMN
from hf_tc.data.text_files import DEFAULT_SPLIT
from hf_tc.distillation.data_settings import DataSettings
from hf_tc.teachers.positions import check_fits

TOKENS_COLUMN = "input_ids"


def is_text_source(dataset: Any) -> bool:
    """Whether a data set is not rows but text, or says where text is: a path, a text, the id of a data set of the Hub,
    a list of these, or of conversations as lists of messages."""
    if isinstance(dataset, list | tuple) and dataset:
        are_conversations = all(isinstance(item, list) for item in dataset)
        return are_conversations or any(isinstance(item, str | Path) for item in dataset)
    return isinstance(dataset, str | Path)


def training_split(dataset: Any) -> Any:
    """Of data sets by split the one to train on; all else as it is.

    Raises:
        ValueError: there is no split of that name.
    """
    if not isinstance(dataset, Mapping):
        return dataset
    if DEFAULT_SPLIT not in dataset:
        raise ValueError(
            f"train_dataset is a {type(dataset).__name__} with {sorted(map(str, dataset))}, none of them "
            f"{DEFAULT_SPLIT!r}. Give one of these by itself."
        )
    return dataset[DEFAULT_SPLIT]


def check_given(
    datasets: Mapping[str, Any], models: Mapping[str, Any], settings: DataSettings, has_own_collator: bool
) -> None:
    """Raises `ValueError` for what can be told before models are loaded: a data set that is empty, or text where a
    collator of its own is given; rows made of text that are longer than the positions of a model.

    Args:
        datasets: those of a trainer by the name of their argument; None where there is none.
        models: by role; each a model, a folder, a Hub id, or None.
    """
    for name, dataset in _named(datasets):
        if has_length(dataset) and not len(dataset):
            unless = "leave it out" if name.startswith("eval") else "None to evaluate alone"
            raise ValueError(f"{name} is empty; it must hold text or examples. Give some, or {unless}.")
        if has_own_collator and isinstance(dataset, str | Path):
            raise ValueError(
                f"{name} is a {type(dataset).__name__}, and a data_collator is given, to which data are left as they "
                "are. Leave data_collator out, and rows are made of the text."
            )
    of_a_cache = () if getattr(settings, "teacher_cache", None) is None else ("train_dataset",)  # whose blocks are made
    cut = [] if has_own_collator else [(name, dataset) for name, dataset in _named(datasets) if name not in of_a_cache]
    if any(_holds_text(dataset, name) for name, dataset in cut):
        check_rows_fit(models, settings)


def check_rows_fit(models: Mapping[str, Any], settings: DataSettings) -> None:
    """Raises `ValueError` for rows longer than the positions of a model; `models` as in `check_given`. The longest rows
    of all stages count, which are those of an evaluation too."""
    length = settings.row_length
    if settings.curriculum:
        stages = f"curriculum has sequences of {length} tokens"
        check_fits(models, length, stages, "Give stages (--curriculum) of")
    else:
        check_fits(models, length)


def _holds_text(dataset: Any, name: str) -> bool:
    """Whether rows of `sequence_length` are made of a data set."""
    if is_text_source(dataset):
        return True
    # A stream that does not tell its columns is opened once, when rows are made of it.
    is_opened = getattr(dataset, "column_names", None) or has_length(dataset)
    columns = columns_of(dataset) if is_opened else None
    return columns is not None and is_raw(columns, name)


def columns_of(dataset: Any) -> list[str] | None:
    """The columns of a data set, None where they are not known: it is empty, or can be read only once."""
    if names := getattr(dataset, "column_names", None):
        return list(names)
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        first = dataset[0] if len(dataset) else None
    else:
        rows = iter(dataset)
        first = None if rows is dataset else next(rows, None)
    return list(first) if isinstance(first, Mapping) else None


def is_raw(columns: Iterable[str], name: str) -> bool:
    """Whether rows of these columns hold text or conversations, not tokens; `ValueError` where they hold neither."""
    found, raw = list(columns), (TEXT_COLUMN, *CONVERSATION_COLUMNS)
    if TOKENS_COLUMN in found:
        return False
    if not any(column in found for column in raw):
        known = ", ".join((TOKENS_COLUMN, *raw))
        raise ValueError(
            f"{name} has the columns {sorted(found)}, none of them known. Rename the one to use to one of {known}."
        )
    return True


def _named(datasets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All data sets that there are, those of a dictionary one by one."""
    for name, dataset in datasets.items():
        if isinstance(dataset, Mapping) and dataset:
            yield from ((f"{name}[{key!r}]", part) for key, part in dataset.items())
        elif dataset is not None:
            yield name, dataset
