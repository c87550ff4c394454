# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Conversations as text, by the tokenizer's chat template."""

from __future__ import annotations

from typing import Any

from hf_tc.data.conversations import Conversation
from hf_tc.data.row_files import CalibrationDataError


def has_chat_template(tokenizer: Any) -> bool:
    return getattr(tokenizer, "chat_template", None) is not None


def rendered(conversation: Conversation, tokenizer: Any, **options: Any) -> str:
    """A conversation as the template writes it; options are those of `apply_chat_template`.

    Raises:
        CalibrationDataError: there is no template, or it refuses the conversation.
    """
    if not has_chat_template(tokenizer):
        raise CalibrationDataError(
            "The data holds conversations, and the tokenizer has no chat template to write them with. Set "
            "tokenizer.chat_template, convert the instruct version of the teacher, or give text in a column 'text'."
        )
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, **options)
    except Exception as error:  # a template raises whatever it likes
        shown = repr(conversation) if len(repr(conversation)) <= 300 else repr(conversation)[:300] + "..."
        raise CalibrationDataError(
            f"The tokenizer's chat template refuses the conversation {shown}: {type(error).__name__}: {error}. Remove "
            "or mend such rows."
        ) from error


def answer_prompt(user_text: str, tokenizer: Any) -> str:
    """What a model reads before it answers a user."""
    # enable_thinking: templates of models that think aloud know it, others ignore it.
    messages = [{"role": "user", "content": user_text}]
    return rendered(messages, tokenizer, add_generation_prompt=True, enable_thinking=False)
