# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text in, documents out.

A source is a file (text, JSON, JSON lines, parquet, or a table with a column "text" as .csv or .tsv; all but parquet
also as .xz or .gz), several files, a Hub dataset `name[:split[:column]]`, a `datasets` object, text itself, or a list
of texts or of rows. In a text a line `<|endoftext|>` ends a document. What rows hold is in `row_files`, how a text is
told from a path in `text_or_path`.
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hf_tc.data.conversations import Document
from hf_tc.data.row_files import (
    CalibrationDataError,
    as_row,
    documents_of_rows,
    json_documents,
    json_line_documents,
    parquet_documents,
    table_documents,
)
from hf_tc.data.text_or_path import HUB_DATASET, SAMPLED, are_texts, is_neither, is_text, looks_like_a_path

DOCUMENT_SEPARATOR = "<|endoftext|>"
DEFAULT_SPLIT = "train"
MOST_SHOWN = 100  # characters of a value in a message
MOST_CHARACTERS_PER_TOKEN = 64  # English has 4 to 5, the longest runs of spaces in code below 32

_OPENERS = {".xz": lzma.open, ".gz": gzip.open}
_JSON_LINES = {".jsonl", ".ndjson"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BYTE_ORDER_MARK = "\ufeff"
_IF_IT_IS_TEXT = "If it is meant as text, give it as [{'text': ...}]"


def read_documents(source: Any, max_tokens: int | None = None) -> list[Document]:
    """The documents of a source, in order, none of them blank: texts, and conversations as lists of messages.

    Args:
        source: a path, a text, a sequence of paths, of texts or of rows, `name[:split[:column]]` of a Hub dataset
            (split "train" by default, and the first column there is of "text", "messages", "conversations" and
            "conversation"), a `datasets.Dataset` or `IterableDataset` (read to its end: give `.take(n)` of an endless
            one), or a dictionary of them by split, of which "train" is read.
        max_tokens: read no further than so many tokens can need; all by default.

    Raises:
        CalibrationDataError: a file is missing, empty, a folder or not text; a string is short and no file; a row is
            neither text nor messages; no such dataset, split or column.
    """
    documents: list[Document] = []
    missing = math.inf if max_tokens is None else max_tokens * MOST_CHARACTERS_PER_TOKEN
    for document in stream_documents(source):
        documents.append(document)
        missing -= _characters(document)
        if missing <= 0:
            break
    return documents


def stream_documents(source: Any) -> Iterator[Document]:
    """The documents of `read_documents`, read as they are asked for."""
    is_empty = True
    for document in _documents(source):
        if not is_blank(document):
            is_empty = False
            yield document
    if is_empty:
        raise CalibrationDataError(f"{_shown(source)} holds no text. Give a source with at least one document.")


def is_blank(document: Document) -> bool:
    """Whether a text has nothing but blanks, or a conversation no message."""
    return not (document.strip() if isinstance(document, str) else document)


def _characters(document: Document) -> int:
    if isinstance(document, str):
        return len(document)
    return sum(1 + len(str(message["content"])) for message in document)


def _shown(source: Any) -> str:
    is_name = isinstance(source, Path) or (isinstance(source, str) and not is_text(source))
    return str(source) if is_name else f"The given {type(source).__name__}"


def _briefly(value: Any) -> str:
    """What is no text, in a line: its type, and the shape of a tensor or array, or the value if it is short."""
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    shown, kind = repr(value), type(value).__name__
    return f"{shown} ({kind})" if len(shown) <= MOST_SHOWN and "\n" not in shown else f"a value of type {kind}"


def source_name(source: Any) -> str:
    """What a source is called in a report: a file without its folder, a Hub dataset as it was asked for."""
    if isinstance(source, str) and is_text(source):
        return "a given text"
    if isinstance(source, str | Path):
        return Path(source).name if os.path.exists(source) else str(source)
    if isinstance(source, Sequence):
        if are_texts(source) or any(isinstance(item, Mapping | list) for item in source):
            return "a list of texts"
        return ", ".join(map(source_name, source))
    name = getattr(getattr(source, "info", None), "dataset_name", None)
    return f"{name}:{source.split or DEFAULT_SPLIT}" if name else f"a datasets.{type(source).__name__}"


def _documents(source: Any) -> Iterator[Document]:
    if isinstance(source, str):
        yield from _documents_of_string(source)
    elif isinstance(source, Path):
        if not os.path.exists(source):
            raise CalibrationDataError(f"There is no file {source}. Give an existing file or the id of a Hub dataset.")
        yield from _file_documents(source)
    elif isinstance(source, Mapping) and all(hasattr(split, "column_names") for split in source.values()):
        if DEFAULT_SPLIT not in source:
            raise CalibrationDataError(
                f"The given {type(source).__name__} has the splits {sorted(source)}, none of them {DEFAULT_SPLIT!r}. "
                "Give one of them."
            )
        yield from _documents(source[DEFAULT_SPLIT])
    elif hasattr(source, "column_names"):
        yield from documents_of_rows(source, None, f"the given {type(source).__name__}")
    elif isinstance(source, Sequence):
        yield from _documents_of_sequence(source)
    else:
        raise CalibrationDataError(
            f"Calibration data is {_briefly(source)}; give a file, a text, a list of files, texts or rows, a Hub "
            "dataset name[:split[:column]] or a datasets.Dataset."
        )


def _documents_of_string(source: str) -> Iterator[Document]:
    if os.path.exists(source):
        yield from _file_documents(Path(source))
    elif is_text(source):
        yield from _split_text(io.StringIO(source.removeprefix(_BYTE_ORDER_MARK)))
    elif looks_like_a_path(source):
        raise CalibrationDataError(
            f"There is no file {source}. Give an existing file or the id of a Hub dataset. {_IF_IT_IS_TEXT}."
        )
    elif source in SAMPLED:
        raise CalibrationDataError(
            f"{source!r} is text that a teacher writes while it is converted, for calibration_data alone. Write it to "
            "a file first: hf-tc sample TEACHER --tokens N --out FILE.jsonl"
        )
    elif source.startswith("sampled:"):
        raise CalibrationDataError(
            f"{source!r} is no kind of text that a teacher writes. Give one of {', '.join(SAMPLED)}; a dataset of that "
            "name is named with its owner: OWNER/sampled."
        )
    elif is_neither(source):
        raise CalibrationDataError(
            f"{source!r} is no existing file, and no dataset name[:split[:column]]. If it is meant as a path, correct "
            f"it. {_IF_IT_IS_TEXT}."
        )
    else:
        yield from _hub_documents(source)


def _documents_of_sequence(items: Sequence[Any]) -> Iterator[Document]:
    if items and all(isinstance(item, Mapping | list) for item in items):
        yield from documents_of_rows(map(as_row, items), None, "the given list")
    elif are_texts(items):
        yield from (item.removeprefix(_BYTE_ORDER_MARK) for item in items)
    else:
        for item in items:
            if not isinstance(item, str | Path):
                raise CalibrationDataError(
                    f"{_briefly(item)} is in the list; each must be a path, a dataset id, a text or a row "
                    "{'text': ...}."
                )
            yield from _documents(item)


def _file_documents(path: Path) -> Iterator[Document]:
    if path.is_dir():
        raise CalibrationDataError(f"{path} is a folder. Give its files.")
    kind = packing = path.suffix.lower()
    if kind == ".parquet":
        yield from parquet_documents(path)
        return
    if packing in _OPENERS:
        kind = Path(path.stem).suffix.lower()
    newline = "" if kind in _DELIMITERS else None  # a table's cells keep their line ends
    try:
        # utf-8-sig: a byte-order mark at the start is no text.
        opener: Any = _OPENERS.get(packing, open)
        with opener(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            if kind == ".json":
                yield from json_documents(file.read(), path)
            elif kind in _JSON_LINES:
                yield from json_line_documents(file, path)
            elif kind in _DELIMITERS:
                yield from table_documents(file, path, _DELIMITERS[kind])
            else:
                yield from _split_text(file)
    except UnicodeDecodeError as error:
        raise CalibrationDataError(
            f"{path} is not UTF-8 text: {error}. Give text, JSON, a table or parquet; convert other encodings "
            "with iconv."
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


def _hub_documents(source: str) -> Iterator[Document]:
    match = HUB_DATASET.fullmatch(source)
    assert match is not None
    name, split, column = match.groups()
    try:
        import datasets
    except ImportError as error:
        raise CalibrationDataError(
            f"{source} is no file, and reading it from the Hub needs datasets: pip install 'hf_tc[data]'"
        ) from error

    def rows() -> Iterator[Any]:
        # A stream downloads as much as is read; the library has none of a part of a split, train[:1000].
        part = "[" in (split or "")
        try:
            yield from datasets.load_dataset(name, split=split or DEFAULT_SPLIT, streaming=not part)
        except Exception as error:  # load_dataset raises a dozen unrelated kinds
            raise CalibrationDataError(
                f"{source} is no file, and no dataset that can be loaded: {error}. {_IF_IT_IS_TEXT}."
            ) from error

    return documents_of_rows(rows(), column, source)
