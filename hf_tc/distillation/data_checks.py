# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What must hold of the data of a distillation: no column that says what is learned is lost, something is learned, and
the models know all tokens.

Data sets may be long, made on the fly or readable once only, so examples are looked at as they come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from hf_tc.distillation.collator import MASK_COLUMNS, Collator, weights_of
from hf_tc.distillation.datasets import StreamedExamples, wanted_tokens
from hf_tc.distillation.token_columns import TOKEN_COLUMNS
from hf_tc.evaluation.kd_loss import IGNORE_INDEX
from hf_tc.teachers.positions import most_positions
from hf_tc.teachers.vocabulary import embedding_count, logit_count

BATCH_COLUMNS = (
    *("input_ids", "attention_mask", "position_ids", "seq_idx", "labels", "shift_labels"),
    *MASK_COLUMNS,
    *TOKEN_COLUMNS,
)
EXAMPLES_LOOKED_AT = 1_000
FROM_TOKENIZERS = frozenset(
    {"token_type_ids", "special_tokens_mask"}
)  # a number for each token, and no say in the loss
WAY_OUT = (
    "Examples need at least two tokens, some labels that are not -100 and some token_weights, if any, above 0; a mask "
    "of assistant tokens is all 0 where the chat template has no {% generation %} block."
)


class KnownTokensCollator:
    """Refuses another collator's batches that have tokens, or positions, which a model does not know.

    Batches are looked at where they are made, on the CPU and in the data loader's processes, if it has any: on a GPU
    such a token ends the process without a word of it, and KL alone does not look at labels.

    Raises:
        ValueError: on use, for the first such token.
    """

    def __init__(self, collator: Collator, student: nn.Module, teacher: nn.Module | None) -> None:
        models = [student] if teacher is None else [student, teacher]
        self.collator = collator
        self.known = {"input_ids": min(map(embedding_count, models))}
        self.known |= dict.fromkeys(("labels", "shift_labels"), min(map(logit_count, models)))
        self.positions = min((most for most in map(most_positions, models) if most is not None), default=None)

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """Collate a list of examples."""
        batch = self.collator(features)
        for name, known in self.known.items():
            if isinstance(tokens := batch.get(name), Tensor):
                _check_known(name, tokens, known)
        if self.positions is not None:
            _check_length(batch, self.positions)
        return batch


def _check_known(name: str, tokens: Tensor, known: int) -> None:
    bad = (tokens < 0) | (tokens >= known)
    if name != "input_ids":
        bad &= tokens != IGNORE_INDEX
    if bad.any():
        row, place = bad.nonzero()[0].tolist()
        or_none = "" if name == "input_ids" else f", or {IGNORE_INDEX} where nothing is learned"
        raise ValueError(
            f"{name} has {tokens[row, place].item()} at token {place} of row {row} of a batch, and the models know "
            f"{known:,} tokens: it must be 0 to {known - 1}{or_none}. Make the data with the student's tokenizer."
        )


def _check_length(batch: Mapping[str, Any], most: int) -> None:
    """Raises `ValueError` for a document with more tokens than there are positions; padding does not count."""
    tokens, mask, positions = (batch.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or not tokens.numel():
        return
    if isinstance(positions, Tensor):
        longest = int(positions.max()) + 1
    elif isinstance(mask, Tensor) and mask.shape == tokens.shape:
        longest = int(mask.sum(-1).max())
    else:
        longest = tokens.shape[1]
    if longest > most:
        raise ValueError(
            f"A batch has a sequence of {longest} tokens, and the models have {most} positions: a "
            f"sequence must not be longer. Cut the examples to {most} tokens or fewer."
        )


class CheckedDataMixin:
    """For a `Trainer` whose collator gives `shift_labels`: refuses data that would be silently misread.

    Raises:
        ValueError: a column that would be dropped has a number for each token, such as a mask of another name; or no
            token is labelled, in the beginning or in a whole epoch.
    """

    args: Any
    train_dataset: Any
    data_collator: Collator
    _signature_columns: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._labels = LabelledSteps(self.accelerator)  # type: ignore[attr-defined]  # Trainer's
        self.add_callback(self._labels)  # type: ignore[attr-defined]

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer drops the columns that the student's forward does not name, input_ids too if that takes **kwargs only.
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        self._signature_columns = sorted({*(self._signature_columns or ()), *BATCH_COLUMNS})

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        kept = super()._remove_unused_columns(dataset, description)  # type: ignore[misc]  # Trainer's
        if len(dataset):
            check_dropped_columns(dataset[0], kept.column_names)
        return kept

    def _get_collator_with_removed_columns(self, data_collator: Collator, description: str | None = None) -> Collator:
        collator: Collator = super()._get_collator_with_removed_columns(data_collator, description)  # type: ignore[misc]
        if not self.args.remove_unused_columns:
            return collator
        kept = self._signature_columns

        def checked(features: list[Any]) -> dict[str, Any]:
            for feature in features:
                check_dropped_columns(feature, kept)
            return collator(features)

        return checked

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Tensor | int | None]:
        """The batches of the next optimiser step and their number of labelled tokens, which is noted."""
        batches, tokens = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        if tokens is not None:
            # Waited for in the first step only.
            if self._labels.is_first_step and float(tokens) == 0:
                collator = self._get_collator_with_removed_columns(self.data_collator)
                check_any_label(self.train_dataset, collator)
            self._labels.note(tokens)
        return batches, tokens


class LabelledSteps(TrainerCallback):
    """Counts the optimiser steps with labelled tokens where they are, and waits for the count once an epoch."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.is_first_step = self.is_whole_epoch = True
        self.steps = torch.zeros((), dtype=torch.long, device=accelerator.device)

    def note(self, tokens: Tensor | int) -> None:
        """Notes the number of labelled tokens of one step."""
        self.is_first_step = False
        self.steps += tokens > 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.is_first_step = True

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.is_whole_epoch = float(state.epoch or 0).is_integer()  # a run may resume amid one
        self.steps.zero_()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.is_whole_epoch and int(self.accelerator.reduce(self.steps)) == 0:
            raise ValueError(f"No token of the epoch that ends at step {state.global_step} is labelled. {WAY_OUT}")


def check_steps_are_known(dataset: Any, args: Any) -> None:
    """Raises ValueError for a stream to train on without `max_steps`: learning rates follow from how many there are.

    Args:
        dataset: of examples, or None.
        args: a `DistillationConfig`.
    """
    if dataset is None or has_length(dataset) or args.max_steps > 0:
        return
    way_out = "Set max_steps (--max-steps)"
    if args.packing and (rows := wanted_tokens(args) // args.row_length) and isinstance(dataset, StreamedExamples):
        rows_of_a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = -(-rows // rows_of_a_step)
        way_out += f": {steps:,} for the {rows:,} rows of tokens={wanted_tokens(args):,}, {rows_of_a_step} a step"
    raise ValueError(
        f"train_dataset is a stream, whose length is not known, and max_steps is {args.max_steps}. {way_out}; or give "
        "the text in memory."
    )


def check_dropped_columns(example: Any, kept: Collection[str]) -> None:
    """Raises ValueError if `Trainer` would drop a column that has a number for each token, or lengths of documents."""
    if not isinstance(example, Mapping) or "input_ids" not in example:
        return
    length = len(example["input_ids"])
    for name in example.keys() - {*kept, *FROM_TOKENIZERS}:
        if name == "seq_lengths":
            raise ValueError(
                "The column seq_lengths, lengths of packed documents, would be dropped, and documents would run into "
                "each other. Give position_ids that restart at each document instead."
            )
        if _is_number_a_token(example[name], length):
            raise ValueError(
                f"The column {name} has a number for each token and would be dropped. Call it assistant_masks or "
                "completion_mask if it says which tokens are learned (1) or not (0), token_weights if position t "
                "weighs the prediction of token t + 1; write it into labels (-100), or remove it from the data set."
            )


def _is_number_a_token(value: Any, length: int) -> bool:
    if not hasattr(value, "__len__") or isinstance(value, str | bytes | Mapping) or len(value) != length or not length:
        return False
    return isinstance(value[0], bool | int | float) or getattr(value, "ndim", 0) == 1


def check_any_label(dataset: Iterable[Any], collator: Collator) -> None:
    """Raises ValueError if none of the first examples has a labelled token."""
    for example in islice(dataset, EXAMPLES_LOOKED_AT):
        if weights_of(collator([example])).any():
            return
    raise ValueError(
        f"No token of the training data is labelled, in the first batches and the first {EXAMPLES_LOOKED_AT:,} "
        f"examples, so there is nothing to learn. {WAY_OUT}"
    )
