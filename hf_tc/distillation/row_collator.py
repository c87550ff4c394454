# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows of packed documents as a batch that keeps these apart in every model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_tc.distillation.collator import Collator
from hf_tc.evaluation.kd_loss import IGNORE_INDEX


class RowCollator:
    """Batches of examples that have `position_ids`; all others are for another collator.

    There is no padding mask: with one, models take a row for one document. A shorter row is filled up with a document
    of which nothing is learned.

    Args:
        others: for examples without `position_ids`.
        lengths: of the stages of a curriculum. Where documents begin at all multiples of one of these, `[B, T]` becomes
            `[B T / length, length]`, which is the same and faster.
        flatten: one row `[1, B T]`, as flash attention wants it.
    """

    def __init__(self, others: Collator, lengths: Iterable[int] = (), flatten: bool = False) -> None:
        self.others, self.lengths, self.flatten = others, sorted(lengths), flatten

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """Collate a list of examples."""
        if not all(isinstance(feature, Mapping) and "position_ids" in feature for feature in features):
            return self.others([_with_lists(feature) for feature in features])
        batch = {name: self._padded(name, features) for name in self._token_columns(features[0])}
        rows, length = batch["input_ids"].shape
        shorter = [part for part in self.lengths if length % part == 0 and _begins_at_all(part, batch["position_ids"])]
        shape = (1, rows * length) if self.flatten else (-1, min(shorter, default=length))
        return {name: value.reshape(*shape, *value.shape[2:]) for name, value in batch.items()}

    def of_whole_rows(self) -> RowCollator:
        """The same without shorter rows: an evaluation counts a batch by its examples."""
        return RowCollator(self.others, flatten=self.flatten)

    def _token_columns(self, feature: Any) -> list[str]:
        """Those that say something of each token; `labels` among them."""
        length = len(feature["input_ids"])
        found = [name for name, value in feature.items() if hasattr(value, "__len__") and len(value) == length]
        return [name for name in dict.fromkeys([*found, "labels"]) if name != "attention_mask"]

    def _padded(self, name: str, features: list[Any]) -> Tensor:
        values = [torch.as_tensor(feature.get(name, feature["input_ids"])) for feature in features]
        if name != "position_ids":
            return pad_sequence(values, batch_first=True, padding_value=IGNORE_INDEX if name == "labels" else 0)
        longest = max(map(len, values))
        return torch.stack([torch.cat([value, torch.arange(longest - len(value))]) for value in values])


def _with_lists(feature: Any) -> Any:
    """Of lists the library makes tensors faster than of tensors."""
    if not isinstance(feature, Mapping):
        return feature
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in feature.items()}


def _begins_at_all(part: int, positions: Tensor) -> bool:
    return bool((positions[:, ::part] == 0).all())


def wants_flat_rows(*models: Any) -> bool:
    """Whether one of the models attends by flash attention, which keeps documents of one row apart, not of several.

    A teacher that is not there is None.
    """
    configs = [model.config for model in models if model is not None]
    return any("flash" in str(getattr(config, "_attn_implementation", "")) for config in configs)
