# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Evaluations side by side: the teacher, each student, and what it kept, in one table."""

from collections.abc import Mapping
from typing import Any

from hf_tc.evaluation.kept import DIFFERENCE, SHARE, TIMES, Figure, figures_of, teacher_of

WHAT_KEPT_IS = (
    "Kept: of an accuracy the share of the teacher's, of a perplexity how many times the teacher's (x), else the "
    "difference."
)


def comparison(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table.

    Args:
        evaluations: `Evaluation.to_dict()` of each model, by its name; all against the same teacher or none.
    """
    models = {name: _by_label(evaluation) for name, evaluation in evaluations.items()}
    teacher = _by_label(teacher_of(next(iter(evaluations.values()))))
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
                row.append("" if figure is None else _kept(figure, teacher.get(label)))
        rows.append(row)
    return heading, rows


def how_measured(evaluation: Mapping[str, Any]) -> str:
    """What the table of `ConversionReport.evaluation` is of, in a sentence or two."""
    return note_of({"student": evaluation["figures"]}, f" of {evaluation['data']}")


def note_of(evaluations: Mapping[str, Mapping[str, Any]], text: str = "") -> str:
    """What a table is of, in a sentence or two.

    Args:
        text: what the text of the perplexity is called, with a word before it.
    """
    first = next(iter(evaluations.values()))
    tokens = " and ".join(dict.fromkeys(f"{evaluation['tokens']:,}" for evaluation in evaluations.values()))
    chance = f" Look-up by chance: {first['recall']['chance']:.3g}." if "recall" in first else ""
    kept = f" {WHAT_KEPT_IS}" if teacher_of(first) else ""
    return f"Perplexity on {tokens} tokens{text}.{chance}{kept}"


def _by_label(evaluation: Mapping[str, Any]) -> dict[str, Figure]:
    return {figure.label: figure for figure in figures_of(evaluation)}


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    digits = 2 if figure.comparison == TIMES else 3
    error = "" if figure.standard_error is None else f" ± {figure.standard_error:.{digits}f}"
    return f"{figure.value:,.{digits}f}{error}"


def _kept(figure: Figure, teacher: Figure | None) -> str:
    kept = figure.kept(teacher)
    if kept is None:
        return ""
    if figure.comparison == DIFFERENCE:
        return f"{kept:+.3f}"
    return f"{kept:.0%}" if figure.comparison == SHARE else f"{kept:.3f} x"
