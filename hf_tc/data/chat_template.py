# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Conversations as text, by the tokenizer's chat template, and which of its tokens the assistant says."""

from __future__ import annotations

import re
from typing import Any

from hf_tc.data.conversations import Conversation
from hf_tc.data.row_files import CalibrationDataError

_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_WAYS_OUT = (
    "Set tokenizer.chat_template to one that has the block, or learn all tokens of a conversation: "
    "assistant_only_loss=False (--assistant-only-loss false)."
)


def has_chat_template(tokenizer: Any) -> bool:
    return getattr(tokenizer, "chat_template", None) is not None


def rendered(conversation: Conversation, tokenizer: Any, **options: Any) -> str:
    """A conversation as the template writes it; options are those of `apply_chat_template`.

    Raises:
        CalibrationDataError: there is no template, or it refuses the conversation.
    """
    written: str = _applied(conversation, tokenizer, tokenize=False, **options)
    return written


def assistant_tokens(conversation: Conversation, tokenizer: Any, template: str) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and whether the assistant says them, by a template of `training_template`.

    Raises:
        CalibrationDataError: the template refuses the conversation, or the tokenizer cannot tell where a token begins.
    """
    found = _applied(
        conversation,
        tokenizer,
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},  # long ones are cut
    )
    return list(found["input_ids"]), [bool(learned) for learned in found["assistant_masks"]]


def training_template(tokenizer: Any) -> str:
    """The tokenizer's chat template with `{% generation %}` around what the assistant says: its own, or TRL's of it.

    Raises:
        CalibrationDataError: there is no template, or it has no such block and TRL is not installed or does not know
            it.
    """
    _check_has_template(tokenizer)
    template: str = tokenizer.get_chat_template()
    if _GENERATION_BLOCK.search(template):
        return template
    found = "The tokenizer's chat template has no {% generation %} block, which says what the assistant's tokens are"
    try:
        from trl.chat_template_utils import get_training_chat_template
    except ImportError as error:
        raise CalibrationDataError(
            f"{found}. pip install trl, which has such templates for many models. {_WAYS_OUT}"
        ) from error
    try:
        return get_training_chat_template(tokenizer) or template
    except ValueError as error:
        raise CalibrationDataError(f"{found}, and TRL has none for it ({error}). {_WAYS_OUT}") from error


def answer_prompt(user_text: str, tokenizer: Any) -> str:
    """What a model reads before it answers a user."""
    # enable_thinking: templates of models that think aloud know it, others ignore it.
    messages = [{"role": "user", "content": user_text}]
    return rendered(messages, tokenizer, add_generation_prompt=True, enable_thinking=False)


def _check_has_template(tokenizer: Any) -> None:
    if not has_chat_template(tokenizer):
        raise CalibrationDataError(
            "The data holds conversations, and the tokenizer has no chat template to write them with. Set "
            "tokenizer.chat_template, convert the instruct version of the teacher, or give text in a column 'text'."
        )


def _applied(conversation: Conversation, tokenizer: Any, **options: Any) -> Any:
    _check_has_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(conversation, **options)
    except Exception as error:  # a template raises whatever it likes
        shown = repr(conversation) if len(repr(conversation)) <= 300 else repr(conversation)[:300] + "..."
        raise CalibrationDataError(
            f"The tokenizer's chat template refuses the conversation {shown}: {type(error).__name__}: {error}. Remove "
            "or mend such rows."
        ) from error
