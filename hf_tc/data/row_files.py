# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows, and the files that hold some: JSON, JSON lines, tables and parquet.

Rows hold text in a column "text", or a list of messages in a column "messages", "conversations" or "conversation".

Files are read with the standard library and pyarrow, not by `datasets.load_dataset`, which takes 2 to 14 times the
processor's time (5.2.0) and wants one schema for a whole file: it makes dates and numbers of texts that look like some
and refuses a column that appears late. It takes [ and * in a path for a pattern and does not say in which line an error
is; and text files are read without that optional package.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from hf_tc.data.conversations import CONVERSATION_COLUMNS, Document, as_conversation

TEXT_COLUMN = "text"


class CalibrationDataError(ValueError):
    """The text cannot be used. The message says what was found, what is needed and what to do."""


def documents_of_rows(rows: Iterable[Any], column: str | None, name: str) -> Iterator[Document]:
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


def json_documents(text: str, path: Path) -> Iterator[Document]:
    """Rows of a file that is one list, or JSON lines in spite of its name."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError:
        return json_line_documents(text.splitlines(), path)
    return documents_of_rows(map(as_row, rows if isinstance(rows, list) else [rows]), None, str(path))


def json_line_documents(lines: Iterable[str], path: Path) -> Iterator[Document]:
    def rows() -> Iterator[Any]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield as_row(json.loads(line))
            except json.JSONDecodeError as error:
                raise CalibrationDataError(f"Line {number} of {path} is not JSON: {error}.") from error

    return documents_of_rows(rows(), None, str(path))


def as_row(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {TEXT_COLUMN: value}


def table_documents(file: TextIO, path: Path, delimiter: str) -> Iterator[Document]:
    """Rows of a table with a header, which has a column "text"."""
    limit = csv.field_size_limit(2**31 - 1)  # it is 131,072 characters, less than a book
    rows = csv.DictReader(file, delimiter=delimiter, restkey="", restval="")
    try:
        yield from documents_of_rows(rows, TEXT_COLUMN, str(path))
    except csv.Error as error:
        raise CalibrationDataError(f"{path} is not a readable table: {error}.") from error
    finally:
        csv.field_size_limit(limit)


def parquet_documents(path: Path) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CalibrationDataError(f"Reading {path} needs pyarrow: pip install 'hf_tc[data]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from documents_of_rows(batch.to_pylist(), None, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise CalibrationDataError(f"{path} is not a readable parquet file: {error}") from error
