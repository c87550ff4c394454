# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Text in, blocks of token ids out: the same for calibration, alignment, distillation and evaluation.

A source is a file (text, JSON lines or parquet, the first two also as .xz or .gz), several files, a Hub dataset
``name[:split[:column]]``, or a `datasets` object. In a text file a line ``<|endoftext|>`` ends a document.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import LongTensor, Tensor, nn

DOCUMENT_SEPARATOR = "<|endoftext|>"
TEXT_COLUMN = "text"

_OPENERS = {".xz": lzma.open, ".gz": gzip.open}
_JSON_LINES = {".jsonl", ".ndjson"}
_DATA_SUFFIXES = {".txt", ".text", ".md", ".json", ".parquet", *_JSON_LINES, *_OPENERS}
# Characters read per token wanted: English has 4 to 5; a cut this far away cannot change the tokens that are kept.
_CHARACTERS_PER_TOKEN = 8
_TOKENS_NEAR_A_CUT = 32


class CalibrationDataError(ValueError):
    """The text cannot be used. The message says what was found, what is needed and what to do."""


def read_documents(source: Any) -> list[str]:
    """All documents of a source, in order, none of them blank.

    Args:
        source: a path, a sequence of paths, ``name[:split[:column]]`` of a Hub dataset (split "train" and column "text"
            by default), or a `datasets.Dataset` or `IterableDataset` (read to its end: give `.take(n)` of an endless
            one).

    Raises:
        CalibrationDataError: a file is missing, empty, a folder or not text; a row is not text; no such dataset or
            column.
    """
    documents = [document for document in _documents(source) if document.strip()]
    if not documents:
        raise CalibrationDataError(f"{_name(source)} holds no text. Give a source with at least one document.")
    return documents


def token_blocks(documents: Sequence[str], tokenizer: Any, seq_len: int, max_tokens: int | None = None) -> LongTensor:
    """Documents joined with eos and cut into blocks of token ids [N, seq_len]; the last, incomplete block is dropped.

    Each document starts with bos where the tokenizer puts one by itself. A block may hold parts of several documents.

    Args:
        documents: texts, as `read_documents` gives them.
        tokenizer: a `PreTrainedTokenizerBase` with an eos token (not needed for a single document).
        seq_len: tokens per block, at least 2.
        max_tokens: use at most that many tokens from the start; all by default.

    Raises:
        CalibrationDataError: the text is too short for one block, or there is no eos token to join documents with.
    """
    if seq_len < 2:
        raise CalibrationDataError(
            f"seq_len is {seq_len}; a block needs at least 2 tokens, one to predict from another."
        )
    if max_tokens is not None and max_tokens < seq_len:
        raise CalibrationDataError(
            f"max_tokens is {max_tokens}, below one block of seq_len {seq_len}. Raise max_tokens or lower seq_len."
        )
    if len(documents) > 1 and tokenizer.eos_token_id is None:
        raise CalibrationDataError(
            f"{len(documents)} documents are to be joined with eos, and the tokenizer has none. Set "
            "tokenizer.eos_token."
        )
    prefix = _bos_prefix(tokenizer)
    ids: list[int] = []
    for document in documents:
        if max_tokens is not None and len(ids) >= max_tokens:
            break
        if ids:
            ids.append(tokenizer.eos_token_id)
        ids += prefix
        ids += _encode(document, tokenizer, None if max_tokens is None else max(max_tokens - len(ids), 0))
    ids = ids[:max_tokens]
    count = len(ids) // seq_len
    if count == 0:
        raise CalibrationDataError(
            f"The text has {len(ids)} tokens; one block of seq_len needs {seq_len}. Give more text or lower seq_len."
        )
    return torch.tensor(ids[: count * seq_len]).view(count, seq_len)  # type: ignore[return-value]


def calibration_batches(blocks: Tensor, batch_size: int, seed: int) -> Iterator[LongTensor]:
    """Batches [batch_size, T] of blocks [N, T], shuffled by ``seed`` alone: the order of blocks is the same for every
    batch size. The last batch may be smaller."""
    if batch_size < 1:
        raise CalibrationDataError(f"batch_size is {batch_size}; it must be at least 1.")
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
    return (blocks[rows] for rows in order.split(batch_size))  # type: ignore[misc]


def check_vocabulary(tokenizer: Any, model: nn.Module) -> None:
    """Raise CalibrationDataError if the tokenizer has token ids for which the model has no embedding."""
    tokens = max(tokenizer.get_vocab().values()) + 1
    embeddings = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr]
    if tokens > embeddings:
        raise CalibrationDataError(
            f"The tokenizer has {tokens} tokens, {type(model).__name__} has embeddings for {embeddings}. Use the "
            "model's own tokenizer, or call resize_token_embeddings() on the model and train the new rows first."
        )


def _bos_prefix(tokenizer: Any) -> list[int]:
    ids = list(tokenizer("")["input_ids"])
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def _encode(document: str, tokenizer: Any, needed: int | None) -> list[int]:
    """The document's tokens, or its first ``needed`` without tokenizing much more than these."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    if needed is None:
        return encode(document)
    characters = (needed + _TOKENS_NEAR_A_CUT) * _CHARACTERS_PER_TOKEN
    while characters < len(document):
        ids = encode(document[:characters])
        if len(ids) >= needed + _TOKENS_NEAR_A_CUT:
            return ids[:needed]
        characters *= 2
    return encode(document)[:needed]


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"The given {type(source).__name__}"


def _documents(source: Any) -> Iterator[str]:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.exists():
            yield from _file_documents(path)
        elif isinstance(source, Path) or _looks_like_a_path(source):
            raise CalibrationDataError(f"There is no file {source}. Give an existing file or the id of a Hub dataset.")
        else:
            yield from _hub_documents(source)
    elif hasattr(source, "column_names"):
        yield from _rows(source, TEXT_COLUMN, _name(source))
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


def _file_documents(path: Path) -> Iterator[str]:
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


def _json_lines(file: TextIO, path: Path) -> Iterator[str]:
    def rows() -> Iterator[Any]:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise CalibrationDataError(f"Line {number} of {path} is not JSON: {error}.") from error
            yield row if isinstance(row, dict) else {TEXT_COLUMN: row}

    return _rows(rows(), TEXT_COLUMN, str(path))


def _parquet_documents(path: Path) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CalibrationDataError(f"Reading {path} needs pyarrow: pip install hf_tc[data]") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from _rows(batch.to_pylist(), TEXT_COLUMN, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise CalibrationDataError(f"{path} is not a readable parquet file: {error}") from error


def _hub_documents(source: str) -> Iterator[str]:
    name, _, rest = source.partition(":")
    split, _, column = rest.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise CalibrationDataError(
            f"{source} is no file, and reading it from the Hub needs datasets: pip install hf_tc[data]"
        ) from error
    try:
        dataset = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # load_dataset raises a dozen unrelated kinds
        raise CalibrationDataError(f"{source} is no file, and no dataset that can be loaded: {error}") from error
    return _rows(dataset, column or TEXT_COLUMN, source)


def _rows(rows: Iterable[Any], column: str, name: str) -> Iterator[str]:
    for number, row in enumerate(rows):
        if column not in row:
            raise CalibrationDataError(
                f"Row {number} of {name} has the columns {sorted(row)}, not {column!r}. Rename the text column to "
                f"{column!r}, or name it: dataset:split:column."
            )
        if not isinstance(row[column], str):
            raise CalibrationDataError(
                f"Row {number} of {name} has {row[column]!r} in column {column!r}, not text. Remove such rows."
            )
        yield row[column]
