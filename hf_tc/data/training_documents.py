# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Documents as a training reads them: their tokens, which of these are learned, and whether they may be cut in two."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from hf_tc.data.chat_template import assistant_tokens, rendered, training_template
from hf_tc.data.conversations import Conversation, Document
from hf_tc.data.token_blocks import bos_prefix


class TokenisedDocument(NamedTuple):
    """Tokens of a text or a conversation, and as many flags: True at those that are learned.

    `prefix` is what a text starts with, bos or nothing, and what is left of one starts with it again; `at` is where
    that begins among the tokens, 0 for all of them.
    """

    input_ids: list[int]
    is_learned: list[bool]
    is_conversation: bool
    prefix: tuple[int, ...] = ()
    at: int = 0

    def first(self, tokens: int) -> TokenisedDocument:
        """So many tokens of what is left, as a document of its own."""
        start = self._start
        part = slice(self.at, self.at + tokens - len(start))
        ids, learned = [*start, *self.input_ids[part]], [*(True for _ in start), *self.is_learned[part]]
        return self._replace(input_ids=ids, is_learned=learned, at=0)

    def after(self, tokens: int) -> TokenisedDocument | None:
        """What is left after these; None where nothing is, or a token alone that only bos would stand before."""
        at = self.at + tokens - len(self._start)
        return self._replace(at=at) if len(self.input_ids) - at > len(self.prefix) else None

    def pieces(self, length: int) -> Iterator[TokenisedDocument]:
        """All of it in pieces of at most so many tokens, at least 2."""
        rest: TokenisedDocument | None = self
        while rest is not None:
            yield rest.first(length)
            rest = rest.after(length)

    @property
    def _start(self) -> tuple[int, ...]:
        return self.prefix if self.at else ()

    @property
    def teaches(self) -> bool:
        """Whether a token is learned that another one stands before."""
        return any(self.is_learned[1:])


class DocumentTokenizer:
    """Makes tokens of documents.

    A text starts with bos where the tokenizer puts one by itself and ends with eos where it has one; all of it is
    learned. A conversation is what the chat template makes of it, and what the assistant says is learned.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        assistant_only: False to learn all of a conversation.

    Raises:
        CalibrationDataError: when a conversation comes: there is no chat template, it does not say what the assistant's
            tokens are (see `training_template`), or refuses the conversation.
    """

    def __init__(self, tokenizer: Any, assistant_only: bool = True) -> None:
        self.tokenizer, self.assistant_only = tokenizer, assistant_only
        self._prefix = tuple(bos_prefix(tokenizer))
        self._suffix = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    @property
    def filler(self) -> int:
        """A token for places that hold nothing."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    def __call__(self, document: Document) -> TokenisedDocument:
        """The tokens of one document."""
        if not isinstance(document, str):
            return TokenisedDocument(*self._of_conversation(document), is_conversation=True)
        ids = [*self._prefix, *self._encode(document), *self._suffix]
        return TokenisedDocument(ids, [True] * len(ids), is_conversation=False, prefix=self._prefix)

    def _of_conversation(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        if self.assistant_only:
            return assistant_tokens(conversation, self.tokenizer, self._template)
        ids = self._encode(rendered(conversation, self.tokenizer))
        return ids, [True] * len(ids)

    @cached_property
    def _template(self) -> str:
        return training_template(self.tokenizer)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids
