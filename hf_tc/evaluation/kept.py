# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which figures an evaluation has, and what a student kept of its teacher's: the one definition, for the table, for
JSON and for Python.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# How a figure is set beside the teacher's.
TIMES, SHARE, DIFFERENCE, NOTHING = "times", "share", "difference", "nothing"


class Figure(NamedTuple):
    """A figure of a model, and how it is compared with the teacher's.

    Attributes:
        path: the keys of `Evaluation.to_dict()` that lead to it.
        label: what it is called in tables.
    """

    path: tuple[str, ...]
    label: str
    value: float
    comparison: str
    standard_error: float | None = None

    def kept(self, teacher: "Figure | None") -> float | None:
        """The difference from the teacher's figure, or else the figure divided by it; None where there is none to
        compare with, where it is 0, and where one is not finite.
        """
        if teacher is None or self.comparison == NOTHING or not math.isfinite(self.value + teacher.value):
            return None
        if self.comparison == DIFFERENCE:
            return self.value - teacher.value
        return self.value / teacher.value if teacher.value else None


def kept_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of the teacher's figures, by the same keys as the figures: {"tasks": {"lambada": 0.85}}.

    Args:
        evaluation: `Evaluation.to_dict()`.
    """
    teacher = {figure.path: figure for figure in figures_of(teacher_of(evaluation))}
    found: dict[str, Any] = {}
    for figure in figures_of(evaluation):
        value = figure.kept(teacher.get(figure.path))
        if value is not None:
            place = found
            for key in figure.path[:-1]:
                place = place.setdefault(key, {})
            place[figure.path[-1]] = value
    return found


def teacher_of(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The teacher's figures in `Evaluation.to_dict()`, as far as it has them."""
    if "teacher" in evaluation:
        return evaluation["teacher"]
    perplexity = evaluation.get("teacher_perplexity")
    return {} if perplexity is None else {"perplexity": perplexity}


def figures_of(evaluation: Mapping[str, Any]) -> Iterator[Figure]:
    """All figures of `Evaluation.to_dict()`, in the order of the table."""
    for name, label, how in (
        ("perplexity", "perplexity", TIMES),
        ("kl", "KL to the teacher, nats", NOTHING),
        ("top1_agreement", "top-1 agreement", NOTHING),
    ):
        if name in evaluation:
            yield Figure((name,), label, evaluation[name], how)
    if recall := evaluation.get("recall"):
        yield from _of_recall(recall)
    for name, score in (evaluation.get("tasks") or {}).items():
        how = SHARE if score["higher_is_better"] else TIMES
        label = f"{name} ({score['metric']})"
        yield Figure(("tasks", name), label, score["value"], how, score.get("standard_error"))
    if mean := evaluation.get("multiple_choice"):
        label = f"multiple choice, mean of {mean['tasks']}"
        yield Figure(("multiple_choice",), label, mean["value"], SHARE, mean.get("standard_error"))
    if checks := evaluation.get("generation"):
        label = f"right answers, of {len(checks['answers'])}"
        yield Figure(("generation", "right"), label, checks["right"], SHARE)
        yield Figure(("generation", "degenerate"), "degenerate answers", checks["degenerate"], DIFFERENCE)


def _of_recall(recall: Mapping[str, Any]) -> Iterator[Figure]:
    for copy in ("first", "second"):
        name = f"{copy}_copy_nll"
        yield Figure(("recall", name), f"passages, {copy} copy, nats", recall[name], DIFFERENCE)
    for distance, accuracy in recall["lookup_accuracy"].items():
        error = math.sqrt(accuracy * (1 - accuracy) / max(recall["lookups"] - 1, 1))
        path = ("recall", "lookup_accuracy", distance)
        yield Figure(path, f"look-up over {int(distance):,} tokens", accuracy, SHARE, error)
