# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tokens a second, in the log and beside the bar that shows how far a training is and how long it will take."""

from __future__ import annotations

from time import perf_counter
from typing import Any, cast

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Throughput(TrainerCallback):
    """Tokens and seconds of optimiser steps, of this process's run and since they were last asked for.

    Time between steps, for evaluations and checkpoints, does not count.
    """

    def __init__(self) -> None:
        self.tokens, self.seconds = 0, 0.0
        self._told = (0, 0.0)
        self._begun = self._tokens_before = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Of the whole run so far; None where no step was done or tokens are not counted."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None

    def since_last(self) -> float | None:
        """Of the steps since this was last asked for."""
        tokens, seconds = self.tokens - self._told[0], self.seconds - self._told[1]
        self._told = (self.tokens, self.seconds)
        return tokens / seconds if tokens and seconds else None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        self._begun = perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts from here."""
        self._tokens_before = state.num_input_tokens_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops the clock. On a GPU the step before the last one has been waited for: gradient norms are read."""
        self.seconds += perf_counter() - self._begun
        self.tokens = int(state.num_input_tokens_seen - self._tokens_before)


class ThroughputMixin:
    """For a `Trainer`: the losses in its log have `tokens_per_second` beside them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.throughput = Throughput()
        self.add_callback(self.throughput)  # type: ignore[attr-defined]  # Trainer's

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in `Trainer`."""
        rate = self.throughput.since_last() if "loss" in logs else None
        super().log(logs if rate is None else {**logs, "tokens_per_second": rate}, *args, **kwargs)  # type: ignore[misc]


class TokenProgress(ProgressCallback):
    """The library's bar, with steps, time left and here tokens a second.

    Args:
        throughput: of the trainer.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__()
        self.throughput = throughput

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar on."""
        rate, bar = self.throughput.tokens_per_second, cast("tqdm | None", self.training_bar)
        if bar is not None and rate is not None:
            bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        super().on_step_end(args, state, control, **kwargs)
