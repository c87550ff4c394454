# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Documents that are being sampled: what has been written of each, and what it becomes when a turn ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from hf_tc.data.chat_template import answer_prompt
from hf_tc.data.conversations import Document
from hf_tc.data.text_or_path import CHAT
from hf_tc.evaluation.generation_checks import is_degenerate
from hf_tc.sampling.prompts import Prompts


class Fault(Enum):
    """Why a document is of no use."""

    ENDLESS = "endless"  # a user's turn that leaves no room for an answer
    EMPTY = "empty"
    REPETITIVE = "repetitive"
    IDENTICAL = "identical"  # with an earlier one


@dataclass
class Draft:
    """A document in progress.

    Attributes:
        number: among those of its kind, in the order in which they were begun.
        ids: all that the teacher is given to go on from.
        start: where in it the turn that is being sampled starts.
        user_text: the user's turn of a conversation, once it has ended.
    """

    kind: str
    number: int
    ids: list[int]
    start: int
    user_text: str | None = None

    @classmethod
    def begin(cls, kind: str, number: int, prompts: Prompts) -> Draft:
        first = prompts.first[kind]
        return cls(kind, number, list(first), len(first))

    def extend(self, sampled: list[int], prompts: Prompts, tokenizer: Any, most_tokens: int) -> Document | Fault | None:
        """Takes tokens in, of which a stop token is the last.

        Returns:
            The document if it is complete, a fault if it is of no use, None if it goes on.
        """
        self.ids += sampled
        stopped = bool(sampled) and sampled[-1] in prompts.stop_ids
        turn = self.ids[self.start : -1] if stopped else self.ids[self.start :]
        text = tokenizer.decode(turn, skip_special_tokens=True)
        end = {CHAT: prompts.user_end if self.user_text is None else prompts.answer_end}.get(self.kind, "")
        if end and end in text:
            text, stopped = text.partition(end)[0], True
        full = len(self.ids) >= most_tokens
        if not stopped and not full:
            return None
        if is_degenerate(text, turn):
            return Fault.REPETITIVE if any(map(str.isalnum, text)) else Fault.EMPTY
        if self.kind != CHAT:
            return text
        if self.user_text is None:
            return self._begin_answer(text.strip(), tokenizer, most_tokens) if stopped else Fault.ENDLESS
        return [{"role": "user", "content": self.user_text}, {"role": "assistant", "content": text.strip()}]

    def _begin_answer(self, user_text: str, tokenizer: Any, most_tokens: int) -> Fault | None:
        """Goes on with the answer. A user who left no room for one is as good as one who did not end."""
        self.user_text = user_text
        self.ids = tokenizer(answer_prompt(user_text, tokenizer), add_special_tokens=False)["input_ids"]
        self.start = len(self.ids)
        return None if self.start < most_tokens else Fault.ENDLESS
