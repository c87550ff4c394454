# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Columns that say something of each token of an example: what it counts, what the teacher predicts there.

Collators know nothing of them, and would drop them or fail to pad them. So they are taken out of the examples, and laid
beside the tokens again once it is seen where a collator has put these: in a row with padding, or one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_tc.evaluation.kd_loss import TOKEN_WEIGHTS
from hf_tc.evaluation.top_k import TOP_K_COLUMNS

TOKEN_COLUMNS = (TOKEN_WEIGHTS, *TOP_K_COLUMNS)


def split_token_columns(examples: list[Any]) -> tuple[list[Any], dict[str, list[Tensor]]]:
    """Examples without these columns, and by name those that there are, one tensor an example.

    Raises:
        ValueError: some examples lack a column that others have, or have a number of it that is not one a token; a
            weight that is negative, NaN or infinite.
    """
    if not all(isinstance(example, Mapping) for example in examples):
        return examples, {}
    columns = {
        name: [_of_example(name, example) for example in examples]
        for name in TOKEN_COLUMNS
        if any(name in example for example in examples)
    }
    for weights in columns.get(TOKEN_WEIGHTS, []):
        _check_weights(weights)
    kept = [{name: value for name, value in example.items() if name not in columns} for example in examples]
    return kept, columns


def laid_beside_tokens(
    columns: Mapping[str, Sequence[Tensor]], examples: Sequence[Any], batch: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The columns as a batch has its tokens, [B, T, ...], 0 at padding.

    Raises:
        ValueError: the collator cut or mixed the tokens of the examples.
    """
    if not columns:
        return {}
    tokens: Tensor = batch["input_ids"]
    starts = _starts(tokens, batch.get("attention_mask"), [torch.as_tensor(x["input_ids"]) for x in examples])
    laid = {}
    for name, values in columns.items():
        flat = values[0].new_zeros(tokens.numel(), *values[0].shape[1:])
        for start, value in zip(starts, values, strict=True):
            flat[start : start + len(value)] = value
        laid[name] = flat.unflatten(0, tokens.shape)
    return laid


def _of_example(name: str, example: Mapping[str, Any]) -> Tensor:
    length, value = len(example["input_ids"]), example.get(name)
    if value is None:
        raise ValueError(f"Some examples have {name} and one has none. Give it to all of them, or leave it out.")
    value = torch.as_tensor(value)
    if not value.ndim or len(value) != length:
        shape = tuple(value.shape)
        raise ValueError(f"An example has {length} input_ids and {name} of shape {shape}, which must have one a token.")
    if name != TOKEN_WEIGHTS:
        return value
    if value.ndim != 1:
        raise ValueError(f"An example has {name} of shape {tuple(value.shape)}; they must be one number a token.")
    return value.float()


def _check_weights(weights: Tensor) -> None:
    bad = ~(weights.isfinite() & (weights >= 0))
    if bad.any():
        index = int(bad.nonzero()[0])
        raise ValueError(
            f"token_weights has {weights[index].item()} at token {index}; a weight must be a finite number, 0 or more. "
            "Position t weighs the prediction of token t + 1."
        )


def _starts(tokens: Tensor, mask: Any, examples: list[Tensor]) -> list[int]:
    """Where the tokens of each example begin, counted through the rows of `[B, T]`.

    Each has a row, or several, or an equal part of one: `RowCollator` folds and joins the rows that it has filled up.
    """
    rows, length = tokens.shape
    if tokens.numel() % len(examples) == 0:
        parts, width = tokens.reshape(len(examples), -1), tokens.numel() // len(examples)
        masks = mask.reshape(parts.shape) if isinstance(mask, Tensor) and mask.shape == tokens.shape else None
        places = [_place(part, masks, index, examples[index]) for index, part in enumerate(parts)]
        if None not in places:
            return [index * width + int(start or 0) for index, start in enumerate(places)]
    if rows == 1 and torch.equal(torch.cat(examples), tokens[0]):
        return [0, *torch.tensor([len(example) for example in examples]).cumsum(0).tolist()][:-1]
    raise ValueError(
        f"The examples have columns with a number for each token, and the {rows} rows of {length} tokens that the "
        f"collator made of {len(examples)} examples do not hold these whole. Use a collator that keeps an example's "
        "tokens together, such as DataCollatorForSeq2Seq(tokenizer) or DataCollatorWithFlattening()."
    )


def _place(row: Tensor, mask: Tensor | None, index: int, example: Tensor) -> int | None:
    """Where an example lies in its row, before or after padding."""
    size = len(example)
    for start in (0, len(row) - size):
        inside = slice(start, start + size)
        all_else_is_padding = mask is None or mask[index].sum() == mask[index, inside].sum()
        if size <= len(row) and torch.equal(row[inside], example.to(row)) and all_else_is_padding:
            return start
    return None
