# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Whether tokenizers and models mean the same by the same token id, which equally many tokens do not say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from hf_tc.data.token_blocks import CalibrationDataError
from hf_tc.teachers.adapters import adapter_base, tokenizer_home

logger = logging.get_logger(__name__)


def check_tokenizers_agree(tokenizers: Mapping[str, Any], model: Any, role: str = "teacher") -> None:
    """Raises ValueError if a tokenizer gives tokens other ids than the model's own does, as far as that is known.

    Tokens that only one of them has are no difference, nor is an added token with another name: what is reserved in one
    checkpoint is often named in the next.

    Args:
        tokenizers: by what they are called in the message, such as "The student's tokenizer".
        model: a model, a folder or a Hub id; its own tokenizer is the one beside its weights.
        role: what the message calls the model.
    """
    known = {owner: tokenizer for owner, tokenizer in tokenizers.items() if hasattr(tokenizer, "get_vocab")}
    its_own = tokenizer_of(model) if known else None
    if its_own is None:
        return
    for owner, tokenizer in known.items():
        difference = _difference(tokenizer, its_own)
        if difference is not None:
            raise ValueError(
                f"{owner} and the {role}'s differ: {difference}. Token ids must mean the same to both. Use a {role} "
                "with the same tokenizer."
            )


def tokenizer_of(model: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model, a folder or a Hub id; None where there is none or it cannot be loaded."""
    own = getattr(model, "tokenizer", None)
    if own is not None:
        return own
    if isinstance(model, str | os.PathLike):
        home = str(model) if adapter_base(model) is None else tokenizer_home(model)
    else:
        home = getattr(model, "name_or_path", "")
    if not home or os.path.isfile(home) or not get_tokenizer_config(home):  # a file is a configuration alone
        return None
    try:
        return AutoTokenizer.from_pretrained(home, trust_remote_code=False)
    except Exception as error:  # those of the tokenizers library have no kind of their own
        logger.warning("The tokenizer of %s cannot be loaded, so its vocabulary is not compared: %s", home, error)
        return None


def _difference(ours: Any, theirs: Any) -> str | None:
    """One token with two ids, or one id with two tokens neither of which was added; None if there is neither."""
    our_ids, their_ids = ours.get_vocab(), theirs.get_vocab()
    moved = [token for token, index in our_ids.items() if their_ids.get(token, index) != index]
    if moved:
        token = min(moved, key=our_ids.__getitem__)
        return f"{token!r} is {our_ids[token]} here, {their_ids[token]} there, one of {len(moved):,} such tokens"
    added = ours.get_added_vocab().keys() | theirs.get_added_vocab().keys()
    their_tokens = {index: token for token, index in their_ids.items() if token not in added}
    renamed = [
        index for token, index in our_ids.items() if token not in added and their_tokens.get(index, token) != token
    ]
    if renamed:
        index = min(renamed)
        token = next(token for token, i in our_ids.items() if i == index)
        return f"{index} is {token!r} here, {their_tokens[index]!r} there, one of {len(renamed):,} such ids"
    return None


def check_vocabulary(tokenizer: Any, model: nn.Module) -> None:
    """Raise CalibrationDataError if the tokenizer has token ids for which the model has no embedding."""
    tokens = max(tokenizer.get_vocab().values()) + 1
    embeddings = embedding_count(model)
    if tokens > embeddings:
        raise CalibrationDataError(
            f"The tokenizer has {tokens} tokens, {type(model).__name__} has embeddings for {embeddings}. Use the "
            "model's own tokenizer, or call resize_token_embeddings() on the model and train the new rows first."
        )


def check_vocabularies_agree(student: nn.Module, teacher: nn.Module) -> None:
    """Raise ValueError unless both models give logits over equally many tokens."""
    student_size, teacher_size = logit_count(student), logit_count(teacher)
    if student_size != teacher_size:
        raise ValueError(
            f"The student has logits for {student_size} tokens, the teacher for {teacher_size}; distillation compares "
            "them token by token. Use the teacher that the student was converted from, or resize_token_embeddings() of "
            "one model to the other's size if both use the same tokenizer."
        )


def embedding_count(model: nn.Module) -> int:
    """Tokens that a causal language model has embeddings for."""
    return model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]  # PEFT passes it on


def logit_count(model: nn.Module) -> int:
    """Tokens that a causal language model gives logits for."""
    head = model.get_output_embeddings()  # type: ignore[operator]  # PEFT passes it on
    if head is not None and getattr(head, "weight", None) is not None and head.weight.dim() == 2:
        return head.weight.shape[0]
    return model.config.get_text_config().vocab_size  # type: ignore[operator, union-attr]  # as above
