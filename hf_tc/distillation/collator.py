# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a batch must hold for distillation: `labels`, and the targets that each position is to predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, default_data_collator

from hf_tc.distillation.token_columns import laid_beside_tokens, split_token_columns
from hf_tc.evaluation.kd_loss import IGNORE_INDEX, TOKEN_WEIGHTS, next_token_targets
from hf_tc.modeling.masks import packed_positions

Collator = Callable[[list[Any]], dict[str, Any]]

# Of `apply_chat_template(return_assistant_tokens_mask=True)` and of TRL: 1 at the tokens that are learned.
MASK_COLUMNS = ("assistant_masks", "completion_mask")


def default_collator(processing_class: Any) -> Collator:
    """Transformers' collator for causal LM examples with or without labels; without a tokenizer, equal lengths only."""
    if isinstance(processing_class, PreTrainedTokenizerBase):
        return DataCollatorForSeq2Seq(processing_class)
    return default_data_collator


class TargetsCollator:
    """Adds `labels` (where absent: the input tokens) and `shift_labels`, both [B, T], to another collator's batches.

    What examples have of `TOKEN_COLUMNS` is laid beside their tokens.

    A token is no target where one of its example's `MASK_COLUMNS` is 0, where it is padding or follows padding, nor as
    the first of a packed document. Padding is read from the attention mask, not from the pad token: many tokenizers pad
    with eos, which is a real token at the end of a document. `shift_labels` that a batch has already stay as they are.
    `Trainer` counts `shift_labels` to normalise the loss of accumulated batches.

    Raises:
        ValueError: a mask that does not fit its example or has other numbers than 0 and 1, or a collator that labels
            what an example does not.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """Collate a list of examples."""
        features = [_masks_as_labels(feature) for feature in features]
        features, columns = split_token_columns(features)
        batch = self.collator(features)
        batch.update(laid_beside_tokens(columns, features, batch))
        if batch.get("labels") is None:
            batch["labels"] = batch["input_ids"].clone()
        self._check_labels_were_kept(features, batch["labels"])
        attention_mask = batch.get("attention_mask")
        if isinstance(attention_mask, Tensor) and attention_mask.shape == batch["labels"].shape:
            way_out = "Tell the documents of a row by position_ids that restart at each."
            check_is_mask("attention_mask", attention_mask, "at tokens and 0 at padding", way_out)
            batch["labels"] = _without_padding(batch["labels"], attention_mask.bool())
        batch["labels"] = _without_document_starts(batch["labels"], batch)
        if "shift_labels" not in batch:
            batch["shift_labels"] = next_token_targets(batch["labels"])
        return batch

    def _check_labels_were_kept(self, features: list[Any], labels: Tensor) -> None:
        if not all(isinstance(feature, Mapping) and feature.get("labels") is not None for feature in features):
            return
        given = sum(int(torch.as_tensor(feature["labels"]).ne(IGNORE_INDEX).sum()) for feature in features)
        found = int(labels.ne(IGNORE_INDEX).sum())
        if found > given:
            raise ValueError(
                f"{type(self.collator).__name__} labels {found} tokens of a batch whose examples label {given}: it "
                "writes labels of its own. Use a collator that keeps them, such as DataCollatorForSeq2Seq(tokenizer)."
            )


def targets_of(batch: Mapping[str, Any]) -> Tensor:
    """The token that each position of a batch is to predict, or -100, [B, T]."""
    if batch.get("shift_labels") is not None:
        return batch["shift_labels"]
    return next_token_targets(batch["labels"])


def weights_of(batch: Mapping[str, Any]) -> Tensor:
    """What the prediction at each position counts, [B, T] fp32: its weight, 1 without weights, 0 without a target.

    Raises:
        ValueError: weights of another shape.
    """
    targets, weights = targets_of(batch), batch.get(TOKEN_WEIGHTS)
    labelled = (targets != IGNORE_INDEX).float()
    if weights is None:
        return labelled
    if weights.shape != targets.shape:
        raise ValueError(
            f"token_weights has shape {tuple(weights.shape)}, the tokens {tuple(targets.shape)}; give each token a "
            "weight."
        )
    return labelled * weights.to(labelled)


def check_is_mask(name: str, mask: Tensor, meaning: str, way_out: str) -> None:
    """Raises `ValueError` for a mask, of any shape, with other numbers than 0 and 1."""
    bad = (mask != 0) & (mask != 1)
    if bad.any():
        *_, place = bad.nonzero()[0].tolist()
        raise ValueError(f"{name} has {mask[bad][0].item()} at token {place}; it must be 1 {meaning}. {way_out}")


def _masks_as_labels(example: Any) -> Any:
    """An example with -100 in its `labels` where one of its masks is 0, and without the masks."""
    masks = [name for name in MASK_COLUMNS if name in example] if isinstance(example, Mapping) else []
    if not masks:
        return example
    tokens = example["input_ids"]
    labels = torch.as_tensor(tokens if example.get("labels") is None else example["labels"])
    for name in masks:
        if example[name] is None or len(example[name]) != len(tokens):
            found = "none" if example[name] is None else len(example[name])
            raise ValueError(
                f"An example has {len(tokens)} input_ids and {found} of {name}, which must say of every token whether "
                "it is learned. Give every example a mask of its length, or leave the column out."
            )
        mask = torch.as_tensor(example[name])
        way_out = "Use token_weights for what a token counts."
        check_is_mask(name, mask, "where a token is learned and 0 where not", way_out)
        labels = labels.masked_fill(~mask.bool(), IGNORE_INDEX)
    rest = {name: value for name, value in example.items() if name not in masks}
    return {**rest, "labels": labels if isinstance(tokens, Tensor) else labels.tolist()}


def _without_padding(labels: Tensor, is_token: Tensor) -> Tensor:
    is_target = is_token.clone()
    is_target[..., 1:] &= is_token[..., :-1]
    return labels.masked_fill(~is_target, IGNORE_INDEX)


def _without_document_starts(labels: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Without the first token of each packed document, which nothing before it is to predict.

    Documents are told by what models read, `cu_seq_lens_q` or restarting `position_ids`, and by `seq_idx` [B, T].
    """
    positions, documents = batch.get("position_ids"), batch.get("seq_idx")
    if positions is not None and positions.ndim != 2:
        positions = None  # several axes, as of images: those do not restart
    rows, length = labels.shape
    inside = packed_positions(rows, length, positions, batch.get("cu_seq_lens_q"))
    if inside is not None:
        labels = labels.masked_fill(inside == 0, IGNORE_INDEX)
    if documents is not None:
        is_start = torch.zeros_like(labels, dtype=torch.bool)
        is_start[:, 1:] = documents[:, 1:] != documents[:, :-1]
        labels = labels.masked_fill(is_start, IGNORE_INDEX)
    return labels
