# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students beside their teacher on the console: no figure and no measure is broken, in whatever width there is."""

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from hf_tc.evaluation.figures import Evaluation, Recall, TaskScore
from hf_tc.report.comparison import comparison
from hf_tc.report.comparison_tables import folded, print_comparison

NAMES = [f"students_Qwen2.5-Coder-1.5B-Instruct-gdn-0.25-seed{seed}" for seed in range(4)]


def figures_of(loss: float, with_teacher: bool = True) -> dict[str, Any]:
    found = Evaluation(
        perplexity=20.0 + loss,
        tokens=32_736,
        kl=loss,
        top1_agreement=0.9,
        recall=Recall(64, 64, 4.4, 0.5 + loss, 256, 0.125, {0: 0.7, 128: 0.6}),
        tasks={
            "lambada_openai_test": TaskScore("acc", 0.3 - loss / 10, 0.009, 2500, True),
            "arc_challenge_test": TaskScore("acc_norm", 0.28, 0.019, 600, True, has_choices=True),
            "hellaswag_val": TaskScore("acc_norm", 0.42 - loss / 10, 0.01, 2500, True, has_choices=True),
        },
    )
    teacher = figures_of(0.0, with_teacher=False) if with_teacher else None
    return found.to_dict() | ({"teacher": teacher, "teacher_perplexity": 20.0} if teacher else {})


def shown(evaluations: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_comparison(evaluations, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def lines_of(text: str, label: str) -> list[str]:
    """What stands beside a measure, in each table."""
    rows = (line.strip() for line in text.splitlines())
    return [row.removeprefix(label).strip() for row in rows if row.startswith(f"{label} ")]


STUDENTS = {name: figures_of(0.125 * (1 + place)) for place, name in enumerate(NAMES)}
# Columns of the console, and how many tables four students need there.
WIDTHS = {80: 4, 96: 2, 100: 2, 120: 2, 125: 2, 150: 1, 200: 1}


@pytest.mark.parametrize(("width", "tables"), WIDTHS.items())
def test_students_without_room_stand_in_further_tables(width: int, tables: int) -> None:
    text = shown(STUDENTS, width)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    assert len(lines_of(text, "perplexity")) == tables
    for label, of_teacher, *cells in comparison(STUDENTS)[1]:
        found = lines_of(text, label)
        assert all(of_teacher in line for line in found)
        beside = " ".join(line.removeprefix(of_teacher) for line in found)
        assert beside.split() == " ".join(cells).split()
    assert text.count("Perplexity on 32,736 tokens.") == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_names_are_folded_and_whole(width: int) -> None:
    text = shown(STUDENTS, width)
    for seed in range(4):
        assert f"seed{seed}" in text
    headings = [line for line in text.splitlines() if "Qwen2.5" in line]
    assert len(headings) <= 4
    alone = shown(dict(list(STUDENTS.items())[:1]), 120)
    assert NAMES[0] in alone  # on one line where there is room


def test_a_window_too_narrow_for_one_student_breaks_nothing_either() -> None:
    text = shown(STUDENTS, 40)
    assert " ".join(lines_of(text, "hellaswag_val (acc_norm)")[0].split()) == "0.420 ± 0.010 0.407 ± 0.010 97%"


def test_without_a_teacher_columns_are_narrow() -> None:
    text = shown({"a": figures_of(0.5, with_teacher=False), "b": figures_of(1.0, with_teacher=False)}, 80)
    assert lines_of(text, "perplexity") == ["20.50          21.00"]


def test_names_are_shown_as_they_are() -> None:
    assert "[bold]:smile:" in shown({"[bold]:smile:": figures_of(0.5)}, 120)


def test_folding_is_at_separators_where_there_are_some() -> None:
    assert folded("SmolLM2-135M-Instruct-gdn-0.25-seed0", 14) == "SmolLM2-135M-\nInstruct-gdn-\n0.25-seed0"
    assert folded("onewordandnothingelse", 8) == "oneworda\nndnothin\ngelse"
    assert folded("short", 12) == "short"
    assert folded("", 12) == ""
