# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a batch must hold for distillation: `labels`, and the targets that each position is to predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, default_data_collator

from hf_tc.evaluation.kd_loss import IGNORE_INDEX, next_token_targets

Collator = Callable[[list[Any]], dict[str, Any]]


def default_collator(processing_class: Any) -> Collator:
    """Transformers' collator for causal LM examples with or without labels; without a tokenizer, equal lengths only."""
    if isinstance(processing_class, PreTrainedTokenizerBase):
        return DataCollatorForSeq2Seq(processing_class)
    return default_data_collator


class TargetsCollator:
    """Adds `labels` (where absent: the input tokens) and `shift_labels`, both [B, T], to another collator's batches.

    A position is no target where it is padding, nor where the position that would predict it is. Padding is read from
    the attention mask, not from the pad token: many tokenizers pad with eos, which is a real token at the end of a
    document. `Trainer` counts `shift_labels` to normalise the loss of accumulated batches.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """Collate a list of examples."""
        batch = self.collator(features)
        if batch.get("labels") is None:
            batch["labels"] = batch["input_ids"].clone()
        attention_mask = batch.get("attention_mask")
        if isinstance(attention_mask, Tensor) and attention_mask.shape == batch["labels"].shape:
            batch["labels"] = _without_padding(batch["labels"], attention_mask.bool())
        if "shift_labels" not in batch:
            batch["shift_labels"] = next_token_targets(batch["labels"])
        return batch


def _without_padding(labels: Tensor, is_token: Tensor) -> Tensor:
    is_target = is_token.clone()
    is_target[..., 1:] &= is_token[..., :-1]
    return labels.masked_fill(~is_target, IGNORE_INDEX)


def targets_of(inputs: Mapping[str, Any]) -> Tensor:
    """Targets `[B, T]` of a batch, whether the collator shifted its labels or not."""
    if inputs.get("shift_labels") is not None:
        return inputs["shift_labels"]
    return next_token_targets(inputs["labels"])
