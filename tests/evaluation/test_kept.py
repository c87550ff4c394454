# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a student kept of its teacher's figures, for programs, and the mean over tasks of multiple choice."""

import json
import math
from dataclasses import replace

import pytest

from hf_tc.evaluation.figures import Answer, Evaluation, GenerationChecks, MultipleChoice, Recall, TaskScore

ANSWERS = [Answer("?", "!", False, False)]
TASKS = {
    "lambada": TaskScore("acc", 0.5, 0.02, 600, True),
    "arc": TaskScore("acc_norm", 0.5, 0.03, 600, True, has_choices=True),
    "winogrande": TaskScore("acc", 0.75, 0.04, 600, True, has_choices=True),
    "cola": TaskScore("mcc", 0.25, 0.5, 600, True, has_choices=True),  # a choice, but no accuracy
    "wikitext": TaskScore("word_perplexity", 30.0, None, 60, False),
}
TEACHER = Evaluation(
    20.0,
    1000,
    recall=Recall(64, 64, 4.0, 0.5, 257, 0.125, {0: 0.8, 128: 0.0}),
    tasks=TASKS,
    generation=GenerationChecks(0.75, 0.0, ANSWERS),
)
STUDENT = Evaluation(
    25.0,
    1000,
    0.25,
    0.9,
    20.0,
    recall=Recall(64, 64, 4.25, 1.75, 257, 0.125, {0: 0.4, 128: 0.5}),
    tasks={
        **TASKS,
        "lambada": replace(TASKS["lambada"], value=0.25),
        "arc": replace(TASKS["arc"], value=0.25),
        "wikitext": replace(TASKS["wikitext"], value=45.0),
    },
    generation=GenerationChecks(0.375, 0.25, ANSWERS),
    teacher=TEACHER,
)
KEPT = {
    "perplexity": 1.25,
    "recall": {"first_copy_nll": 0.25, "second_copy_nll": 1.25, "lookup_accuracy": {"0": 0.5}},
    "tasks": {"lambada": 0.5, "arc": 0.5, "winogrande": 1.0, "cola": 1.0, "wikitext": 1.5},
    "multiple_choice": 0.8,
    "generation": {"right": 0.5, "degenerate": 0.25},
}


def test_each_figure_is_kept_in_its_way() -> None:
    assert STUDENT.kept == KEPT
    assert TEACHER.kept == {}


def test_json_has_what_is_kept_and_of_the_teacher_what_is_its_own() -> None:
    figures = json.loads(json.dumps(STUDENT.to_dict()))
    assert figures["kept"] == KEPT
    assert figures["teacher"] == json.loads(json.dumps(TEACHER.to_dict()))
    assert "kept" not in figures["teacher"]
    assert figures["multiple_choice"]["value"] == 0.5
    assert figures["teacher"]["multiple_choice"]["value"] == 0.625


def test_what_cannot_be_compared_is_left_out() -> None:
    assert Evaluation(25.0, 1000, 0.25, 0.9, 20.0).kept == {"perplexity": 1.25}
    assert Evaluation(math.inf, 1000, 0.25, 0.9, 20.0).kept == {}
    assert Evaluation(25.0, 1000).kept == {}
    assert "kept" not in Evaluation(25.0, 1000).to_dict()


def test_the_mean_is_of_choices_scored_by_accuracy() -> None:
    assert TEACHER.multiple_choice == MultipleChoice(0.625, pytest.approx(0.025), 2)  # sqrt(0.03^2 + 0.04^2) / 2


@pytest.mark.parametrize("names", [["lambada", "arc", "cola", "wikitext"], [], None])
def test_of_fewer_than_two_choices_there_is_no_mean(names: list[str] | None) -> None:
    tasks = None if names is None else {name: TASKS[name] for name in names}
    found = replace(STUDENT, tasks=tasks)
    assert found.multiple_choice is None
    assert "multiple_choice" not in found.to_dict()


def test_the_mean_has_no_error_where_that_of_a_task_is_not_known() -> None:
    tasks = {**TASKS, "arc": replace(TASKS["arc"], standard_error=None)}
    found = replace(STUDENT, tasks=tasks)
    assert found.multiple_choice == MultipleChoice(0.625, None, 2)
    assert found.to_dict()["multiple_choice"] == {"value": 0.625, "tasks": 2}
