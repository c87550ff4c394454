# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Blocks of token ids from documents: the same for calibration, alignment, distillation and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import LongTensor, Tensor

from hf_tc.data.chat_template import rendered
from hf_tc.data.conversations import Document
from hf_tc.data.text_files import CalibrationDataError, read_documents

__all__ = ["CalibrationDataError", "read_documents", "token_blocks"]

# Characters read per token wanted: English has 4 to 5; a cut this far away cannot change the tokens that are kept.
_CHARACTERS_PER_TOKEN = 8
_TOKENS_NEAR_A_CUT = 32
NO_START = torch.empty(0, dtype=torch.long)  # of blocks whose tokenizer puts nothing before a text


def token_blocks(
    documents: Sequence[Document], tokenizer: Any, sequence_length: int, max_tokens: int | None = None
) -> LongTensor:
    """Documents in a row, cut into blocks of token ids [N, sequence_length]; the last, incomplete block is dropped.

    Every block starts with bos where the tokenizer puts one before a text by itself, also one that goes on in the
    middle of a document: such models never see a text without it, and lose much of what they know there. A
    block may hold parts of several documents, see `joined_tokens`.

    Args:
        documents: texts or conversations, as `read_documents` gives them.
        tokenizer: a `PreTrainedTokenizerBase` with an eos token (not needed for a single document, nor after
            conversations) and, for conversations, a chat template.
        sequence_length: tokens per block, at least 2.
        max_tokens: use at most that many tokens from the start; all by default.

    Raises:
        CalibrationDataError: the text is too short for one block, there is no eos token to join documents with, or a
            conversation cannot be written: no chat template, or one that refuses it.
    """
    _check_request(sequence_length, max_tokens)
    ids = joined_tokens(documents, tokenizer, max_tokens)
    most = None if max_tokens is None else max_tokens // sequence_length
    return blocks_of(ids, bos_prefix(tokenizer), sequence_length, most)


def blocks_of(ids: list[int], prefix: list[int], length: int, most: int | None = None) -> LongTensor:
    """Token ids cut into blocks [N, length], all or the first `most`, each with the prefix where it has none yet.

    Raises:
        CalibrationDataError: there are too few for one block.
    """
    blocks = list(_cut(ids, prefix, length, most))
    if not blocks:
        raise CalibrationDataError(
            f"The text has {len(ids)} tokens; one block of sequence_length needs {length}. Give more text "
            "or lower sequence_length."
        )
    return torch.tensor(blocks)  # type: ignore[return-value]  # torch types no dtype


def _cut(ids: list[int], prefix: list[int], length: int, most: int | None) -> Iterator[list[int]]:
    at, count = 0, 0
    while count != most:
        start = [] if ids[at : at + len(prefix)] == prefix else prefix
        block = start + ids[at : at + length - len(start)]
        if len(block) < length:
            return
        yield block
        at, count = at + length - len(start), count + 1


def joined_tokens(documents: Sequence[Document], tokenizer: Any, max_tokens: int | None = None) -> list[int]:
    """Token ids of documents in a row, the first `max_tokens`.

    A text starts with bos where the tokenizer puts one by itself, and ends with eos where another document follows. A
    conversation is what the tokenizer's chat template makes of it and no more.

    Raises:
        CalibrationDataError: there is no eos token to join documents with, or a conversation cannot be written: no chat
            template, or one that refuses it.
    """
    _check_eos(documents, tokenizer)
    prefix = bos_prefix(tokenizer)
    ids: list[int] = []
    previous: Document | None = None
    for document in documents:
        if max_tokens is not None and len(ids) >= max_tokens:
            break
        if ids and isinstance(previous, str):
            ids.append(tokenizer.eos_token_id)
        ids += prefix if isinstance(document, str) else []
        text = document if isinstance(document, str) else rendered(document, tokenizer)
        ids += _encode(text, tokenizer, None if max_tokens is None else max(max_tokens - len(ids), 0))
        previous = document
    return ids[:max_tokens]


def shared_start(blocks: Tensor) -> Tensor:
    """What all blocks `[N, T]` begin with, `[P]`: the bos that `token_blocks` put before each, or nothing.

    One block alone does not tell. That all of several begin with one word by chance does no harm: whatever is made of
    them then begins with it, too.
    """
    first = blocks[:, 0]
    return first[: int(len(blocks) > 1 and bool((first == first[0]).all()))]


def after_start(rows: Tensor, start: Tensor) -> Tensor:
    """Rows `[N, P + T]` of token ids: `start`, `[P]`, before each of `rows`, `[N, T]`."""
    return torch.cat([start.to(rows).expand(len(rows), -1), rows], dim=1)


def begin_with(blocks: Tensor, start: Tensor) -> bool:
    """Whether each of the blocks `[N, T]` begins with these tokens `[P]`."""
    return bool((blocks[:, : len(start)] == start.to(blocks.device)).all())


def check_enough_blocks(count: int, sequence_length: int, tokens: int, name: str) -> None:
    """Raises `CalibrationDataError` for fewer blocks than `tokens` make; `name` is what they are of."""
    if count < tokens // sequence_length:
        raise CalibrationDataError(
            f"{name} has {count * sequence_length:,} tokens in blocks of {sequence_length}, {tokens:,} were asked for. "
            "Give more text or ask for fewer tokens."
        )


def _check_request(sequence_length: int, max_tokens: int | None) -> None:
    if sequence_length < 2:
        raise CalibrationDataError(
            f"sequence_length is {sequence_length}; a block needs at least 2 tokens, one to predict from another."
        )
    if max_tokens is not None and max_tokens < sequence_length:
        raise CalibrationDataError(
            f"max_tokens is {max_tokens}, below one block of sequence_length {sequence_length}. Raise the "
            "one or lower the other."
        )


def _check_eos(documents: Sequence[Document], tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None and any(isinstance(document, str) for document in documents[:-1]):
        raise CalibrationDataError(
            f"{len(documents)} documents are to be joined with eos, and the tokenizer has none. Set "
            "tokenizer.eos_token."
        )


def bos_prefix(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text by itself: bos, or nothing."""
    ids = list(tokenizer("")["input_ids"])
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def start_of_texts(tokenizer: Any) -> Tensor:
    """`bos_prefix` as a tensor `[P]`."""
    return torch.tensor(bos_prefix(tokenizer), dtype=torch.long)


def count_tokens(document: Document, tokenizer: Any) -> int:
    """Tokens of a document in `joined_tokens`, without the eos that joins it to the next."""
    if isinstance(document, str):
        return len(bos_prefix(tokenizer)) + len(_encode(document, tokenizer, None))
    return len(_encode(rendered(document, tokenizer), tokenizer, None))


def _encode(document: str, tokenizer: Any, needed: int | None) -> list[int]:
    """The document's tokens, or its first `needed` without tokenizing much more than these."""

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
