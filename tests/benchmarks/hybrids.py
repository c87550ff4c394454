# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""All hybrids of one calibration of all layers, and what each is worth."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from hf_tc.conversion.checkpoint import ConversionCheckpoint
from hf_tc.conversion.layer_by_layer import load_stage
from hf_tc.conversion.task import ConversionTask
from hf_tc.data.repeated_passages import near_and_far, passages_of, repeat_passages
from hf_tc.data.token_blocks import shared_start
from hf_tc.evaluation.distance import DistanceFromTeacher
from hf_tc.evaluation.recall import PASSAGES
from hf_tc.evaluation.tasks import load_tasks, measure_tasks
from hf_tc.layer_selection.hybrid import Hybrid

BATCH_TOKENS = 8192
TASK_BATCH = 16
KL, NLL = 0, 1


class Hybrids:
    """All layers of a teacher calibrated, and what hybrids of them are worth on two texts and on repeats of them."""

    def __init__(
        self, task: ConversionTask, checkpoint: ConversionCheckpoint, selection: Tensor, validation: Tensor
    ) -> None:
        self.student, self.checkpoint, self.teacher, self.selection = task.student, checkpoint, task.teacher, selection
        self.student.config.use_cache = False  # its caches are of the student, not of a hybrid
        self.layers = list(task.student.config.linear_layers)
        self.hybrid = Hybrid(task.student, task.teacher)
        start = shared_start(validation)
        text = validation[:, len(start) :].flatten()
        self._texts: dict[str, tuple[Tensor, Tensor | None]] = {
            "selection": (selection, None),
            "selection, second copies": near_and_far(selection, start),
            "validation": (validation, None),
            "validation, second copies": repeat_passages(passages_of(text)[:PASSAGES, None]),
        }
        self._distances: dict[str, DistanceFromTeacher] = {}
        self._known: dict[tuple[str, str, tuple[int, ...]], tuple[float, float]] = {}
        self.stage = "closed_form"

    def take_stage(self, stage: str) -> None:
        self.hybrid.with_converted(self.layers)
        load_stage(self.student, self.checkpoint, stage)
        self.stage = stage

    def measure(self, text: str, converted: Iterable[int]) -> tuple[float, float]:
        """(KL, negative log-likelihood), nats per token, with these layers converted."""
        layers = tuple(sorted(converted))
        key = (self.stage, text, layers)
        if key not in self._known:
            if text not in self._distances:
                rows, counted = self._texts[text]
                batch_size = max(1, BATCH_TOKENS // rows.shape[1])
                self._distances[text] = DistanceFromTeacher(self.teacher, rows, batch_size, counted)
            self._known[key] = self._distances[text](self.hybrid.with_converted(layers))
        return self._known[key]

    def without(self, retained: Iterable[int]) -> list[int]:
        return [layer for layer in self.layers if layer not in set(retained)]


class Figures:
    """What the table says of a choice, each measured once."""

    def __init__(
        self, hybrids: Hybrids, tokenizer: Any, recall: bool, tasks: Sequence[str], task_rows: int | None
    ) -> None:
        self.hybrids, self.tokenizer, self.recall, self.task_rows = hybrids, tokenizer, recall, task_rows
        self.tasks = load_tasks(tasks) if tasks else []
        self._scores: dict[tuple[str, tuple[int, ...]], list[tuple[str, float]]] = {}

    def of(self, retained: tuple[int, ...]) -> Iterator[tuple[str, float]]:
        """Names of columns and their figures."""
        kl, rise = self._against_the_teacher("validation", retained)
        yield from (("x", math.exp(rise)), ("KL", kl))
        if self.recall:
            yield "second copies", self._against_the_teacher("validation, second copies", retained)[1]
        key = (self.hybrids.stage, retained)
        if key not in self._scores:
            self._scores[key] = self._of_tasks(retained) if self.tasks else []
        yield from self._scores[key]

    def _against_the_teacher(self, text: str, retained: tuple[int, ...]) -> tuple[float, float]:
        """KL, and how much higher the negative log-likelihood is."""
        (kl, nll), (_, of_teacher) = (
            self.hybrids.measure(text, converted) for converted in (self.hybrids.without(retained), [])
        )
        return kl, nll - of_teacher

    def _of_tasks(self, retained: tuple[int, ...]) -> list[tuple[str, float]]:
        model = self.hybrids.hybrid.with_converted(self.hybrids.without(retained))
        scores = measure_tasks(model, self.tokenizer, self.tasks, rows=self.task_rows, batch_size=TASK_BATCH)
        return [(name, score.value) for name, score in scores.items()]
