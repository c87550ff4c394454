# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Data that bring their teacher's predictions: where a run gets them from, and what must hold of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_tc.data.text_files import source_name
from hf_tc.data.token_blocks import check_enough_blocks, read_documents, token_blocks
from hf_tc.distillation.given_data import is_text_source
from hf_tc.distillation.teacher_cache import CacheIdentity, is_teacher_cache, load_teacher_cache, tokenizer_fingerprint
from hf_tc.evaluation.top_k import TOP_K_COLUMNS, check_temperature
from hf_tc.resume.fingerprint import same_weights, weights_fingerprint
from hf_tc.teachers.offloading import stored_weights
from hf_tc.teachers.vocabulary import logit_count

if TYPE_CHECKING:
    from datasets import Dataset


def cached_blocks(folder: str | Path, blocks: Any, tokenizer: Any = None, tokens: int | None = None) -> Dataset:
    """The blocks of a cache, with their teacher's predictions.

    Args:
        blocks: examples with `input_ids` that the cache must begin with, of which there are then as many; text that
            holds these, for the tokenizer; or None.
        tokens: of such text, or without any of the cache; all by default.

    Raises:
        CalibrationDataError: there are fewer tokens.
        ValueError: no whole cache, or blocks that are not those in it.
    """
    cache, is_text = load_teacher_cache(folder), is_text_source(blocks)
    if is_text and tokenizer is None:
        raise ValueError("train_dataset holds text, and there is no tokenizer. Give one as processing_class.")
    if is_text or (blocks is None and tokens is not None):
        blocks = asked_blocks(folder, blocks, tokenizer, tokens)
    if blocks is None:
        return cache
    if not hasattr(blocks, "__len__"):
        raise ValueError(
            f"A {type(blocks).__name__} that is read as it comes cannot be compared with the blocks of teacher_cache. "
            "Leave train_dataset out, and those blocks are learned."
        )
    _check_columns(cache, blocks)
    _check_same_blocks(cache, blocks)
    return cache.select(range(len(blocks)))


def block_length(folder: str | Path) -> int:
    """Tokens of a block of a cache. Raises ValueError where there is no whole one."""
    return len(load_teacher_cache(folder).select_columns("input_ids")[0]["input_ids"])


def asked_blocks(folder: str | Path, data: Any, tokenizer: Any, tokens: int | None) -> Any:
    """The first blocks of a cache, all without `tokens`; or as many of a text, which is to be that of the cache.

    Raises:
        CalibrationDataError: there are fewer tokens.
        ValueError: no whole cache.
    """
    cache, length = load_teacher_cache(folder), block_length(folder)
    tokens = len(cache) * length if tokens is None else tokens
    blocks: Any
    if data is None:
        blocks = cache.select_columns("input_ids").select(range(min(len(cache), tokens // length)))
    else:
        blocks = [{"input_ids": x} for x in token_blocks(read_documents(data, tokens), tokenizer, length, tokens)]
    check_enough_blocks(len(blocks), length, tokens, source_name(folder if data is None else data))
    return blocks


def check_is_no_cache(teacher: Any) -> None:
    """Raises ValueError for a cache in the place of a teacher."""
    if is_teacher_cache(teacher):
        raise ValueError(
            f"{teacher} is the cache of a teacher. Give it as teacher_cache (--teacher-cache), not teacher."
        )


def check_known_teacher(
    sources: Mapping[str, Any], student: nn.Module, teacher: nn.Module | None, tokenizers: Mapping[str, Any], args: Any
) -> None:
    """Raises ValueError for data whose predictions are not for this student, or that have no teacher.

    Args:
        sources: data sets, or dictionaries of them, by the name of their argument. Of those that can be read once only
            nothing is read.
        teacher: loaded, or None.
        tokenizers: by what they are called in the message, such as "The student's tokenizer".
        args: a `DistillationConfig`.
    """
    for name, dataset in _datasets(sources):
        identity, example = CacheIdentity.of(dataset), _first(dataset)
        is_cached = example is not None and all(column in example for column in TOP_K_COLUMNS)
        is_known_to_have_none = is_text_source(dataset) or (example is not None and not is_cached)
        if is_known_to_have_none and teacher is None:
            raise ValueError(
                f"teacher is None and {name} has no predictions of one (columns {', '.join(TOP_K_COLUMNS)}). Give a "
                "teacher, or make the data with hf_tc.cache_teacher."
            )
        if identity is not None and is_cached:
            _check_identity(identity, logit_count(student), tokenizers, teacher)
        if is_cached and args.layer_weight:
            raise ValueError(
                f"layer_weight is {args.layer_weight}, and {name} has a teacher's predictions, not its layers. Train "
                "on data without them beside the teacher, or leave layer_weight at 0."
            )
        if is_cached:
            _check_outcomes(name, torch.as_tensor(example["teacher_ids"]), logit_count(student), args.temperature)


def _datasets(sources: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, source in sources.items():
        if isinstance(source, Mapping):
            yield from ((f"{name}[{key!r}]", dataset) for key, dataset in source.items())
        elif source is not None:
            yield name, source


def _first(dataset: Any) -> Any:
    """The first example, a mapping; None where there is none, or it cannot be looked at without being used up."""
    is_readable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and len(dataset)
    example = dataset[0] if is_readable else None
    return example if isinstance(example, Mapping) else None


def _check_outcomes(name: str, ids: torch.Tensor, vocabulary: int, temperature: float) -> None:
    if ids.shape[-1] > vocabulary or int(ids.max()) >= vocabulary:
        raise ValueError(
            f"{name} has predictions for token {int(ids.max())}, and the student has logits for {vocabulary} tokens. "
            "Cache the teacher that the student was converted from."
        )
    if ids.shape[-1] < vocabulary:
        check_temperature(temperature, ids.shape[-1])


def _check_identity(identity: CacheIdentity, vocabulary: int, tokenizers: Mapping[str, Any], teacher: Any) -> None:
    """Raises ValueError for a cache that is not what a student is to learn from.

    Args:
        vocabulary: tokens that the student has logits for.
        tokenizers: by what they are called in the message, such as "The student's tokenizer".
        teacher: the model that is named beside the cache, or None.
    """
    if identity.vocabulary != vocabulary:
        raise ValueError(
            f"The student has logits for {vocabulary} tokens, the cached teacher {identity.teacher} for "
            f"{identity.vocabulary}; distillation compares them token by token. Cache the teacher that the student was "
            "converted from."
        )
    for owner, tokenizer in tokenizers.items():
        if hasattr(tokenizer, "get_vocab") and tokenizer_fingerprint(tokenizer) != identity.tokenizer:
            raise ValueError(
                f"{owner} gives tokens other ids than that of the cached teacher {identity.teacher}. Cache a teacher "
                "with the same tokenizer."
            )
    if teacher is not None:
        weights = weights_fingerprint(tensor for _, tensor in stored_weights(teacher))
        if not same_weights(weights, identity.weights):
            raise ValueError(
                f"The cache is of the teacher {identity.teacher}, and the teacher given, "
                f"{teacher.name_or_path or type(teacher).__name__}, has other weights. Leave it out to learn from the "
                "cache, or cache this one."
            )


def _check_columns(cache: Dataset, blocks: Any) -> None:
    """Raises ValueError for text that is not tokens yet, and columns that the cache would put out of use."""
    columns = set(blocks[0]) if len(blocks) else {"input_ids"}
    lost = columns - {"attention_mask", *cache.column_names}
    if "input_ids" not in columns or lost:
        raise ValueError(
            f"train_dataset has the columns {sorted(columns)}, and teacher_cache puts blocks with a teacher's "
            "predictions in their place. Leave train_dataset out; or add columns to hf_tc.load_teacher_cache(...), and "
            "give that without teacher_cache."
        )


def _check_same_blocks(cache: Dataset, blocks: Any) -> None:
    """Raises ValueError unless the blocks [T] are those that a cache begins with, in its order.

    Args:
        blocks: a sequence of examples with `input_ids`.
    """
    if len(blocks) > len(cache):
        raise ValueError(
            f"The cache holds {len(cache):,} blocks and the text has {len(blocks):,}. Ask for fewer tokens, leave the "
            "text out, or cache the teacher on all of it."
        )
    ids, at_once = cache.select_columns("input_ids"), 1_000
    for start in range(0, len(blocks), at_once):
        for index, cached in enumerate(ids[start : start + at_once]["input_ids"][: len(blocks) - start], start):
            if not torch.equal(torch.as_tensor(blocks[index]["input_ids"]), cached):
                raise ValueError(
                    f"Block {index} of the text is not that of the cache: another text, order or sequence_length. Give "
                    "the text that the teacher was cached on, or leave it out to learn from that in the cache."
                )
