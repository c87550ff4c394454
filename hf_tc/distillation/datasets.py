# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Data sets of text or conversations as data sets of examples; those that hold tokens stay as they are.

What can be indexed is read once, when the trainer is made, into 12 bytes a token; a stream is read while it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset
from transformers.utils import logging

from hf_tc.data.conversations import Document
from hf_tc.data.packing import Documents, Row, joined, packed
from hf_tc.data.repeating_rows import with_repeats
from hf_tc.data.row_files import CalibrationDataError, documents_of_rows
from hf_tc.data.text_files import is_blank, stream_documents
from hf_tc.data.training_documents import DocumentTokenizer, TokenisedDocument
from hf_tc.distillation.data_settings import DataSettings
from hf_tc.distillation.given_data import TOKENS_COLUMN, columns_of, is_raw, is_text_source

logger = logging.get_logger(__name__)

Example = dict[str, torch.Tensor]


class Examples(Dataset[Example]):
    """Examples in memory, each of them `[T]` tensors by name, in 32 bits."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._examples = [{name: value.int() for name, value in example.items()} for example in examples]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return {name: value.long() for name, value in self._examples[index].items()}

    def in_order(self, order: Iterable[int]) -> Examples:
        """The same examples in another order."""
        other = Examples(())
        other._examples = [self._examples[index] for index in order]
        return other

    @property
    def tokens(self) -> int:
        """Tokens of all examples, those that fill up a row included."""
        return sum(len(example[TOKENS_COLUMN]) for example in self._examples)

    def token_rows(self) -> list[torch.Tensor]:
        """The tokens of each example `[T]`."""
        return [example[TOKENS_COLUMN] for example in self._examples]

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything in it, for a fingerprint."""
        return (value for example in self._examples for value in example.values())


class StreamedExamples(IterableDataset[Example]):
    """Examples that are made of another stream whenever it is read."""

    def __init__(self, dataset: Any, examples_of: Callable[[Iterable[Any]], Iterator[Example]]) -> None:
        self.dataset, self.examples_of = dataset, examples_of

    def __iter__(self) -> Iterator[Example]:
        return self.examples_of(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Has the stream shuffle anew, where it does; `Trainer` calls this."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class DataPreparation:
    """Makes examples of data sets by the settings of a run.

    Args:
        tokenizer: that of the student; None where all data has tokens.
        seed: of the order of rows inside a stage of a curriculum, and of which passages come twice.
        has_own_collator: data is left to that collator, whatever its columns.

    Attributes:
        is_packed: whether any examples that were made hold several documents.

    Raises:
        ValueError: on use: a data set has none of the columns that can be trained on, text without a tokenizer,
            repeated_passages for data with tokens.
        CalibrationDataError: on use: fewer tokens than asked for, a row that is no text or conversation, a conversation
            that the chat template cannot write.
    """

    def __init__(self, tokenizer: Any, settings: DataSettings, seed: int = 0, has_own_collator: bool = False) -> None:
        self.tokenizer, self.settings, self.seed = tokenizer, settings, seed
        self.has_own_collator, self.is_packed = has_own_collator, False

    def for_training(self, dataset: Any) -> Any:
        """A data set to train on."""
        return self._prepared(dataset, self.settings, "train_dataset")

    def for_evaluation(self, dataset: Any) -> Any:
        """A data set to evaluate on, or several by name: all of it, in sequences of the longest length."""
        if isinstance(dataset, dict):
            return {name: self.for_evaluation(part) for name, part in dataset.items()}
        whole = DataSettings(
            sequence_length=self.settings.row_length,
            packing=self.settings.packing,
            assistant_only_loss=self.settings.assistant_only_loss,
        )
        return self._prepared(dataset, whole, "eval_dataset")

    def examples(self, documents: Iterable[Document], name: str) -> Examples:
        """The examples to train on of documents, in the order of the stages; see `DataSettings`."""
        return self._examples(documents, self.settings, name)

    def _prepared(self, dataset: Any, settings: DataSettings, name: str) -> Any:
        self.is_packed |= isinstance(dataset, Examples) and settings.packing
        is_text = not self.has_own_collator and is_text_source(dataset)
        columns = None if dataset is None or is_text or self.has_own_collator else columns_of(dataset)
        if not is_text and (columns is None or not is_raw(columns, name)):
            if not isinstance(dataset, Examples | None):
                _check_is_learned_as_it_is(settings, name)
            return dataset
        if self.tokenizer is None:
            raise ValueError(f"{name} holds text, and there is no tokenizer. Give one as processing_class.")
        if is_text:
            return self._examples(stream_documents(dataset), settings, name)
        if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
            rows = (dataset[index] for index in range(len(dataset)))
            return self._examples(_documents(rows, name), settings, name)
        self.is_packed |= settings.packing
        return StreamedExamples(dataset, lambda rows: self._stream(_documents(rows, name), settings, name))

    def _examples(self, documents: Iterable[Document], settings: DataSettings, name: str) -> Examples:
        self.is_packed |= settings.packing
        tokenize = DocumentTokenizer(self.tokenizer, settings.assistant_only_loss)
        tokenised, order = map(tokenize, documents), list[int]()
        generator = torch.Generator().manual_seed(self.seed)
        made = list[Example]()
        for part in parts_of(tokenised, settings, tokenize.filler, self.seed):
            before = len(made)
            made += part
            order += (before + torch.randperm(len(made) - before, generator=generator)).tolist()
        examples = Examples(made)
        _check_enough(examples.tokens, settings, name)
        return examples.in_order(order) if settings.curriculum else examples

    def _stream(self, documents: Iterable[Document], settings: DataSettings, name: str) -> Iterator[Example]:
        tokenize, found = DocumentTokenizer(self.tokenizer, settings.assistant_only_loss), 0
        for part in parts_of(map(tokenize, documents), settings, tokenize.filler, self.seed):
            for example in part:
                found += len(example[TOKENS_COLUMN])
                yield example
        if found < wanted_tokens(settings):
            logger.warning(
                f"{name} has {found:,} tokens, {wanted_tokens(settings):,} were asked for; it is at its end."
            )


def parts_of(
    documents: Iterable[TokenisedDocument], settings: DataSettings, filler: int, seed: int
) -> Iterator[Iterator[Example]]:
    """The examples of each stage, to be read one stage after the other; the documents go on in the next one."""
    rest, length = Documents(documents), settings.row_length
    for stage in settings.stages:
        if settings.packing:
            rows = joined(packed(rest, stage.sequence_length, filler), length // stage.sequence_length)
            examples: Iterator[Example] = map(
                Row._asdict, rows if stage.tokens is None else islice(rows, stage.tokens // length)
            )
        else:
            examples = separate(rest, length, stage.tokens)
        yield with_repeats(examples, settings.repeated_passages, seed)


def separate(documents: Iterable[TokenisedDocument], length: int, tokens: int | None) -> Iterator[Example]:
    """Documents by themselves: texts in pieces of at most `length`, conversations without what is beyond it."""
    left = float("inf") if tokens is None else tokens
    for document in documents:
        for piece in islice(document.pieces(length), 1 if document.is_conversation else None):
            if left <= 0:
                return
            if piece.teaches:
                left -= len(piece.input_ids)
                ids = torch.tensor(piece.input_ids)
                yield {TOKENS_COLUMN: ids, "labels": ids.masked_fill(~torch.tensor(piece.is_learned), -100)}


def wanted_tokens(settings: DataSettings) -> int:
    """The tokens asked for, in whole rows; 0 where all there are."""
    length = settings.row_length if settings.packing else 1
    return sum((stage.tokens or 0) // length * length for stage in settings.stages)


def _check_is_learned_as_it_is(settings: DataSettings, name: str) -> None:
    """Raises `ValueError` for settings of which data without text makes nothing; of a cache `tokens` are taken."""
    is_cached = getattr(settings, "teacher_cache", None) is not None
    given: dict[str, tuple[Any, str]] = {
        "repeated_passages": (settings.repeated_passages, "0"),
        "tokens": (None if is_cached else settings.tokens, "None, and cut the data yourself or set max_steps"),
    }
    for setting, (value, way_out) in given.items():
        if value:
            raise ValueError(
                f"{setting} is {value}, and {name} holds tokens or has a collator of its own, and is learned as it is. "
                f"Leave it at {way_out}; or give text."
            )


def _check_enough(found: int, settings: DataSettings, name: str) -> None:
    if found == 0:
        raise CalibrationDataError(
            f"{name} holds nothing to learn from: no text, and nothing that an assistant says in the first "
            f"{settings.row_length} tokens of a conversation. Give other data or longer sequences."
        )
    if found < wanted_tokens(settings):
        raise CalibrationDataError(
            f"{name} has {found:,} tokens in sequences of {settings.row_length}, {wanted_tokens(settings):,} were "
            "asked for. Give more text or ask for fewer tokens."
        )


def _documents(rows: Iterable[Any], name: str) -> Iterator[Document]:
    return (document for document in documents_of_rows(rows, None, name) if not is_blank(document))
