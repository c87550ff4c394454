# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Evaluations side by side: the teacher, each student, and what it kept, in one table."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

# How a figure is set beside the teacher's.
TIMES, SHARE, DIFFERENCE, NOTHING = "times", "share", "difference", "nothing"
WHAT_KEPT_IS = (
    "Kept: of an accuracy the share of the teacher's, of a perplexity how many times the teacher's (x), else the "
    "difference."
)


class Figure(NamedTuple):
    """A figure of a model, its standard error where known, and how it is compared with the teacher's."""

    value: float
    comparison: str
    standard_error: float | None = None

    def kept(self, teacher: "Figure | None") -> str:
        """What is left of the teacher's figure, in words; nothing where there is none to compare with."""
        if teacher is None or self.comparison == NOTHING or not math.isfinite(self.value + teacher.value):
            return ""
        if self.comparison == DIFFERENCE:
            return f"{self.value - teacher.value:+.3f}"
        if teacher.value == 0:
            return ""
        share = self.value / teacher.value
        return f"{share:.0%}" if self.comparison == SHARE else f"{share:.3f} x"

    def __str__(self) -> str:
        digits = 2 if self.comparison == TIMES else 3
        error = "" if self.standard_error is None else f" ± {self.standard_error:.{digits}f}"
        return f"{self.value:,.{digits}f}{error}"


def comparison(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table.

    Args:
        evaluations: `Evaluation.to_dict()` of each model, by its name; all against the same teacher or none.
    """
    models = {name: dict(_figures(evaluation)) for name, evaluation in evaluations.items()}
    teacher = dict(_figures(_of_teacher(next(iter(evaluations.values())))))
    heading = ["", *(["teacher"] if teacher else [])]
    for name in models:
        heading += [name, "kept"] if teacher else [name]
    rows = []
    for label in dict.fromkeys(label for figures in (*models.values(), teacher) for label in figures):
        row = [label, *([_shown(teacher.get(label))] if teacher else [])]
        for figures in models.values():
            figure = figures.get(label)
            row.append(_shown(figure))
            if teacher:
                row.append("" if figure is None else figure.kept(teacher.get(label)))
        rows.append(row)
    return heading, rows


def print_comparison(evaluations: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Shows `comparison`, and below it what it is of."""
    heading, rows = comparison(evaluations)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(heading):
        table.add_column(name, justify="right" if position else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(_note(evaluations, ""), highlight=False, soft_wrap=True)


def how_measured(evaluation: Mapping[str, Any]) -> str:
    """What the table of `ConversionReport.evaluation` is of, in a sentence or two."""
    return _note({"student": evaluation["figures"]}, f" of {evaluation['data']}")


def _note(evaluations: Mapping[str, Mapping[str, Any]], text: str) -> str:
    first = next(iter(evaluations.values()))
    tokens = " and ".join(dict.fromkeys(f"{evaluation['tokens']:,}" for evaluation in evaluations.values()))
    chance = f" Look-up by chance: {first['recall']['chance']:.3g}." if "recall" in first else ""
    kept = f" {WHAT_KEPT_IS}" if _of_teacher(first) else ""
    return f"Perplexity on {tokens} tokens{text}.{chance}{kept}"


def _shown(figure: Figure | None) -> str:
    return "" if figure is None else str(figure)


def _of_teacher(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    if "teacher" in evaluation:
        return evaluation["teacher"]
    perplexity = evaluation.get("teacher_perplexity")
    return {} if perplexity is None else {"perplexity": perplexity}


def _figures(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """All figures of an evaluation, by what they are called in the table, in its order."""
    for name, label, how in (
        ("perplexity", "perplexity", TIMES),
        ("kl", "KL to the teacher, nats", NOTHING),
        ("top1_agreement", "top-1 agreement", NOTHING),
    ):
        if name in evaluation:
            yield label, Figure(evaluation[name], how)
    if recall := evaluation.get("recall"):
        yield "passages, first copy, nats", Figure(recall["first_copy_nll"], DIFFERENCE)
        yield "passages, second copy, nats", Figure(recall["second_copy_nll"], DIFFERENCE)
        for distance, accuracy in recall["lookup_accuracy"].items():
            error = math.sqrt(accuracy * (1 - accuracy) / max(recall["lookups"] - 1, 1))
            yield f"look-up over {int(distance):,} tokens", Figure(accuracy, SHARE, error)
    for name, score in (evaluation.get("tasks") or {}).items():
        how = SHARE if score["higher_is_better"] else TIMES
        yield f"{name} ({score['metric']})", Figure(score["value"], how, score.get("standard_error"))
    if checks := evaluation.get("generation"):
        yield f"right answers, of {len(checks['answers'])}", Figure(checks["right"], SHARE)
        yield "degenerate answers", Figure(checks["degenerate"], DIFFERENCE)
