# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text in, documents out.

A source is a file (text, JSON lines or parquet, the first two also as .xz or .gz), several files, a Hub dataset
``name[:split[:column]]``, or a `datasets` object. In a text file a line ``<|endoftext|>`` ends a document. Rows hold
text in a column "text", or a list of messages in a column "messages", "conversations" or "conversation".
"""

from __future__ import annotations

import gzip
import json
import lzma
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hf_tc.calibration.conversations import CONVERSATION_COLUMNS, Document, as_conversation

DOCUMENT_SEPARATOR = "<|endoftext|>"
TEXT_COLUMN = "text"
DEFAULT_SPLIT = "train"
MOST_CHARACTERS_PER_TOKEN = 64  # English has 4 to 5, the longest runs of spaces in code below 32

_OPENERS = {".xz": lzma.open, ".gz": gzip.open}
_JSON_LINES = {".jsonl", ".ndjson"}
_DATA_SUFFIXES = {".txt", ".text", ".md", ".json", ".parquet", *_JSON_LINES, *_OPENERS}
_HUB_DATASET = re.compile(r"([^:]+)(?::([^:\[]*(?:\[[^\]]*\])?))?(?::(.+))?")  # a split may be train[:1000]


class CalibrationDataError(ValueError):
    """The text cannot be used. The message says what was found, what is needed and what to do."""


def read_documents(source: Any, max_tokens: int | None = None) -> list[Document]:
    """The documents of a source, in order, none of them blank: texts, and conversations as lists of messages.

    Args:
        source: a path, a sequence of paths, ``name[:split[:column]]`` of a Hub dataset (split "train" by default, and
            the first column there is of "text", "messages", "conversations" and "conversation"), a `datasets.Dataset`
            or `IterableDataset` (read to its end: give `.take(n)` of an endless one), or a dictionary of them by split,
            of which "train" is read.
        max_tokens: read no further than so many tokens can need; all by default.

    Raises:
        CalibrationDataError: a file is missing, empty, a folder or not text; a row is neither text nor messages; no
            such dataset, split or column.
    """
    documents: list[Document] = []
    missing = math.inf if max_tokens is None else max_tokens * MOST_CHARACTERS_PER_TOKEN
    for document in _documents(source):
        if _characters(document):
            documents.append(document)
        missing -= _characters(document)
        if missing <= 0:
            break
    if not documents:
        raise CalibrationDataError(f"{_name(source)} holds no text. Give a source with at least one document.")
    return documents


def _characters(document: Document) -> int:
    """How long a document is, 0 for a blank one."""
    if isinstance(document, str):
        return len(document) if document.strip() else 0
    return sum(1 + len(str(message["content"])) for message in document)


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"The given {type(source).__name__}"


def source_name(source: Any) -> str:
    """What a source is called in a report: a file without its folder, a Hub dataset as it was asked for."""
    if isinstance(source, str | Path):
        return Path(source).name if Path(source).exists() else str(source)
    if isinstance(source, Sequence):
        return ", ".join(map(source_name, source))
    name = getattr(getattr(source, "info", None), "dataset_name", None)
    return f"{name}:{source.split or DEFAULT_SPLIT}" if name else f"a datasets.{type(source).__name__}"


def _documents(source: Any) -> Iterator[Document]:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.exists():
            yield from _file_documents(path)
        elif isinstance(source, Path) or _looks_like_a_path(source):
            raise CalibrationDataError(f"There is no file {source}. Give an existing file or the id of a Hub dataset.")
        else:
            yield from _hub_documents(source)
    elif isinstance(source, Mapping) and all(hasattr(split, "column_names") for split in source.values()):
        if DEFAULT_SPLIT not in source:
            raise CalibrationDataError(
                f"{_name(source)} has the splits {sorted(source)}, none of them {DEFAULT_SPLIT!r}. Give one of them."
            )
        yield from _documents(source[DEFAULT_SPLIT])
    elif hasattr(source, "column_names"):
        yield from _rows(source, None, _name(source))
    elif isinstance(source, Sequence):
        for item in source:
            if not isinstance(item, str | Path):
                raise CalibrationDataError(f"{item!r} is in the list of files; each must be a path or a dataset id.")
            yield from _documents(item)
    else:
        raise CalibrationDataError(
            f"Calibration data is {source!r} ({type(source).__name__}); give a file, several files, a Hub dataset "
            "name[:split[:column]] or a datasets.Dataset."
        )


def _looks_like_a_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~")) or Path(source).suffix in _DATA_SUFFIXES or source.count("/") > 1


def _file_documents(path: Path) -> Iterator[Document]:
    if path.is_dir():
        raise CalibrationDataError(f"{path} is a folder. Give its files.")
    if path.suffix == ".parquet":
        yield from _parquet_documents(path)
        return
    kind = Path(path.stem).suffix if path.suffix in _OPENERS else path.suffix
    try:
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:  # type: ignore[operator]
            yield from _json_lines(file, path) if kind in _JSON_LINES else _split_text(file)
    except UnicodeDecodeError as error:
        raise CalibrationDataError(
            f"{path} is not UTF-8 text: {error}. Give text, JSON lines or parquet; convert other encodings with iconv."
        ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise CalibrationDataError(f"{path} cannot be read: {error}. Check the file and its permissions.") from error


def _split_text(file: TextIO) -> Iterator[str]:
    lines: list[str] = []
    for line in file:
        if line.strip() == DOCUMENT_SEPARATOR:
            yield "".join(lines).strip("\n")
            lines = []
        else:
            lines.append(line)
    yield "".join(lines).strip("\n")


def _json_lines(file: TextIO, path: Path) -> Iterator[Document]:
    def rows() -> Iterator[Any]:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise CalibrationDataError(f"Line {number} of {path} is not JSON: {error}.") from error
            yield row if isinstance(row, dict) else {TEXT_COLUMN: row}

    return _rows(rows(), None, str(path))


def _parquet_documents(path: Path) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CalibrationDataError(f"Reading {path} needs pyarrow: pip install hf_tc[data]") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from _rows(batch.to_pylist(), None, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise CalibrationDataError(f"{path} is not a readable parquet file: {error}") from error


def _hub_documents(source: str) -> Iterator[Document]:
    match = _HUB_DATASET.fullmatch(source)
    if match is None:
        raise CalibrationDataError(f"{source!r} is no file, and no dataset name[:split[:column]].")
    name, split, column = match.groups()
    try:
        import datasets
    except ImportError as error:
        raise CalibrationDataError(
            f"{source} is no file, and reading it from the Hub needs datasets: pip install hf_tc[data]"
        ) from error
    try:
        dataset = datasets.load_dataset(name, split=split or DEFAULT_SPLIT)
    except Exception as error:  # load_dataset raises a dozen unrelated kinds
        raise CalibrationDataError(f"{source} is no file, and no dataset that can be loaded: {error}") from error
    return _rows(dataset, column, source)


def _rows(rows: Iterable[Any], column: str | None, name: str) -> Iterator[Document]:
    """The documents in a column, by default in the first there is of those that usually hold some."""
    wanted = (TEXT_COLUMN, *CONVERSATION_COLUMNS) if column is None else (column,)
    for number, row in enumerate(rows):
        found = next((column for column in wanted if column in row), None)
        if found is None:
            raise CalibrationDataError(
                f"Row {number} of {name} has the columns {sorted(row)}, not {' or '.join(map(repr, wanted))}. Rename "
                f"the column to read to {TEXT_COLUMN!r}, or name it: dataset:split:column."
            )
        value = row[found]
        document = value if isinstance(value, str) else as_conversation(value)
        if document is None:
            raise CalibrationDataError(
                f"Row {number} of {name} has {value!r} in column {found!r}, not text and no list of messages with role "
                "and content. Remove such rows."
            )
        yield document
