# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation gives, as data."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from hf_tc.evaluation.kept import kept_of

ACCURACIES = ("acc_norm", "acc")


@dataclass(frozen=True)
class Recall:
    """What a model finds again in its own context; see `hf_tc.evaluation.recall`."""

    passages: int
    passage_tokens: int
    first_copy_nll: float  # nats per token of the passages
    second_copy_nll: float  # the same tokens, read a second time
    lookups: int  # at each distance
    chance: float  # accuracy of a model that does not look
    lookup_accuracy: dict[int, float]  # by tokens between the list and the questions


@dataclass(frozen=True)
class TaskScore:
    """A task's main metric: accuracy by length-normalised likelihood, plain accuracy, or else the first it has."""

    metric: str
    value: float
    standard_error: float | None  # None where the metric is no mean over rows
    rows: int
    higher_is_better: bool
    has_choices: bool = False  # whether it is a choice among answers that are given


@dataclass(frozen=True)
class MultipleChoice:
    """The mean over the tasks that are a choice among given answers and scored by accuracy."""

    value: float
    standard_error: float | None  # the tasks being independent; None where that of a task is not known
    tasks: int


@dataclass(frozen=True)
class Answer:
    """A greedy answer to a question with a known answer."""

    question: str
    answer: str
    is_right: bool
    is_degenerate: bool


@dataclass(frozen=True)
class GenerationChecks:
    """Greedy answers to fixed questions; see `hf_tc.evaluation.generation_checks`."""

    right: float  # share of the answers that name what was asked for
    degenerate: float  # share that is empty or goes in circles
    answers: list[Answer]


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model, and of its teacher on the same; what was not is None.

    The first three figures and the teacher's perplexity are means over all predicted tokens: the first token of each
    block is given, all others are predicted.
    """

    perplexity: float
    tokens: int
    kl: float | None = None  # KL(teacher || student), nats per token
    top1_agreement: float | None = None  # share of tokens whose most likely next token is the teacher's
    teacher_perplexity: float | None = None
    recall: Recall | None = None
    tasks: dict[str, TaskScore] | None = None
    generation: GenerationChecks | None = None
    teacher: Evaluation | None = None  # where more than these perplexities was measured

    @property
    def multiple_choice(self) -> MultipleChoice | None:
        """The mean over tasks with choices; None where fewer than two were measured."""
        scores = [score for score in (self.tasks or {}).values() if score.has_choices and score.metric in ACCURACIES]
        if len(scores) < 2:
            return None
        errors = [score.standard_error for score in scores if score.standard_error is not None]
        error = math.hypot(*errors) / len(scores) if len(errors) == len(scores) else None
        return MultipleChoice(statistics.fmean(score.value for score in scores), error, len(scores))

    @property
    def kept(self) -> dict[str, Any]:
        """What is left of the teacher's figures, by the keys of `to_dict`: `kept["tasks"]["lambada"]`.

        Of an accuracy the share of the teacher's (1 for all of it), of a perplexity how many times the teacher's, of
        all else the difference. What cannot be compared is left out: KL, figures that are not finite, shares of 0.
        """
        return kept_of(self._measured())

    def to_dict(self) -> dict[str, Any]:
        """The figures that were measured, `multiple_choice` and, with a teacher, `kept`; ready for JSON."""
        measured = self._measured()
        kept = kept_of(measured)
        return measured | ({"kept": kept} if kept else {})

    def _measured(self) -> dict[str, Any]:
        mean, teacher = self.multiple_choice, self.teacher
        further = {
            "multiple_choice": None if mean is None else asdict(mean),
            "teacher": None if teacher is None else teacher.to_dict(),
        }
        return _known(asdict(self) | further)


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        str(name): _known(value) if isinstance(value, dict) else value
        for name, value in figures.items()
        if value is not None
    }
