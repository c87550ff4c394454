# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Conversations as documents: rows of an instruct data set that hold messages instead of text.

A message is `{"role": ..., "content": ...}`, or `{"from": ..., "value": ...}` as in ShareGPT. The tokenizer's chat
template turns a conversation into text, see `hf_tc.data.token_blocks.token_blocks`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Conversation: TypeAlias = list[dict[str, Any]]
Document: TypeAlias = str | Conversation

CONVERSATION_COLUMNS = ("messages", "conversations", "conversation")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


def as_conversation(value: Any) -> Conversation | None:
    """The messages of a row's value with the keys of a chat template, or None where the value is no list of messages.

    Keys without a value are dropped: where all rows have the columns of any, they are filled in, and templates ask
    whether they are there.
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        return None
    if all("role" in message and "content" in message for message in value):
        return [{key: x for key, x in message.items() if x is not None or key == "content"} for message in value]
    if all("from" in message and "value" in message for message in value):
        roles = [_SHAREGPT_ROLES.get(message["from"], message["from"]) for message in value]
        return [{"role": role, "content": message["value"]} for role, message in zip(roles, value, strict=True)]
    return None
