# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Where sampled documents begin and end: a free text at a start token, a conversation inside the chat template.

A model that was trained on conversations also writes the user's turn, if it is given the template up to there (Magpie,
arXiv 2406.08464).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from hf_tc.data.chat_template import answer_prompt, has_chat_template, rendered
from hf_tc.data.text_files import DOCUMENT_SEPARATOR, CalibrationDataError
from hf_tc.data.text_or_path import BOTH, CHAT, FREE, KINDS

_USER, _ANSWER, _NEXT = "USERSTEXT", "ANSWERTEXT", "NEXTTEXT"


@dataclass(frozen=True)
class Prompts:
    """What a teacher is given to go on from, and what ends a turn.

    Attributes:
        first: token ids that a document begins with, by kind ("chat": up to the content of the user's turn).
        stop_ids: tokens that end a text or a turn.
        user_end, answer_end: the same as text, for templates that mark turns without special tokens; "" for none.
    """

    first: dict[str, list[int]]
    stop_ids: frozenset[int]
    user_end: str = ""
    answer_end: str = ""


def kinds_of(kind: str, tokenizer: Any) -> tuple[str, ...]:
    """The kinds of documents that are sampled: both only where there is a chat template.

    Raises:
        CalibrationDataError: no such kind, or conversations without a chat template.
    """
    if kind not in KINDS:
        raise CalibrationDataError(f"The kind of sampled text is {kind!r}; it must be one of {', '.join(KINDS)}.")
    if kind == CHAT and not has_chat_template(tokenizer):
        raise CalibrationDataError(
            "Conversations are to be sampled, and the teacher's tokenizer has no chat template. Sample free text "
            "(sampled:free), or use the instruct version of the teacher."
        )
    if kind == BOTH:
        return (CHAT, FREE) if has_chat_template(tokenizer) else (FREE,)
    return (kind,)


def prompts_of(teacher: PreTrainedModel, tokenizer: Any, kinds: tuple[str, ...]) -> Prompts:
    """Prompts for documents of these kinds.

    Raises:
        CalibrationDataError: no token starts a free text, or the template changes what users say.
    """
    ends, marks = set(_end_tokens(teacher, tokenizer)), Counter[int]()
    if has_chat_template(tokenizer):
        marks = _special_tokens_of_a_conversation(tokenizer)
        ends |= marks.keys()
    first = {}
    if FREE in kinds:
        first[FREE] = [_start_token(teacher, tokenizer, marks)]
    if CHAT not in kinds:
        return Prompts(first, frozenset(ends.union(*first.values())))
    before, user_end, answer_end = _turns(tokenizer)
    first[CHAT] = tokenizer(before, add_special_tokens=False)["input_ids"]
    return Prompts(first, frozenset(ends), user_end, answer_end)


def _end_tokens(teacher: PreTrainedModel, tokenizer: Any) -> list[int]:
    named = getattr(teacher.generation_config, "eos_token_id", None)
    ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    return [token for token in ids if token is not None]


def _special_tokens_of_a_conversation(tokenizer: Any) -> Counter[int]:
    """How often each special token stands in a conversation of two turns."""
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    ids = tokenizer(rendered(messages, tokenizer), add_special_tokens=False)["input_ids"]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return Counter(token for token in ids if token in special)


def _start_token(teacher: PreTrainedModel, tokenizer: Any, marks: Counter[int]) -> int:
    """bos or, without one, eos, if it does not mark every turn of a conversation: some instruct models have renamed
    their turn marks so, and start texts with the separator of their first training still."""
    candidates = [
        tokenizer.bos_token_id,
        getattr(teacher.config, "bos_token_id", None),
        *_end_tokens(teacher, tokenizer),
        tokenizer.get_vocab().get(DOCUMENT_SEPARATOR),
    ]
    for token in candidates:
        if token is not None and marks[token] < 2:
            return token
    raise CalibrationDataError(
        "Free text is to be sampled, and the tokenizer has no token that starts one: no bos or eos that is not a mark "
        "of the chat template's turns. Set tokenizer.bos_token, sample conversations (sampled:chat), or give text."
    )


def _turns(tokenizer: Any) -> tuple[str, str, str]:
    """The template before the user's content, between it and the answer, and between that and the user's next turn."""
    before = _split(answer_prompt(_USER, tokenizer), _USER)[0]
    contents = ((_USER, "user"), (_ANSWER, "assistant"), (_NEXT, "user"))
    text = rendered([{"role": role, "content": content} for content, role in contents], tokenizer)
    user_end, rest = _split(_split(text, _USER)[1], _ANSWER)
    # Spaces belong to the word that follows, and so to what is sampled.
    return before.rstrip(" "), user_end.strip(), _split(rest, _NEXT)[0].strip()


def _split(text: str, content: str) -> tuple[str, str]:
    if text.count(content) != 1:
        raise CalibrationDataError(
            f"The tokenizer's chat template writes a message {text.count(content)} times, once is needed to sample "
            "conversations. Sample free text (sampled:free)."
        )
    before, _, after = text.partition(content)
    return before, after
