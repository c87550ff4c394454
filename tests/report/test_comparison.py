# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students beside their teacher: which figure is compared how."""

import json
import math
from dataclasses import replace

from hf_tc.evaluation.figures import Answer, Evaluation, GenerationChecks, Recall, TaskScore
from hf_tc.report.comparison import comparison, how_measured

TEACHER = Evaluation(
    perplexity=20.0,
    tokens=1000,
    recall=Recall(64, 64, 4.0, 0.5, 257, 0.125, {0: 0.8, 128: 0.0}),
    tasks={
        "lambada": TaskScore("acc", 0.3, 0.02, 600, True),
        "arc": TaskScore("acc_norm", 0.5, 0.03, 600, True, has_choices=True),
        "winogrande": TaskScore("acc", 0.6, 0.04, 600, True, has_choices=True),
        "wikitext": TaskScore("word_perplexity", 30.0, None, 60, False),
    },
    generation=GenerationChecks(0.75, 0.0, [Answer("?", "!", False, False)] * 4),
)
STUDENT = Evaluation(
    perplexity=25.0,
    tokens=1000,
    kl=0.25,
    top1_agreement=0.9,
    teacher_perplexity=20.0,
    recall=Recall(64, 64, 4.25, 1.75, 257, 0.125, {0: 0.4, 128: 0.5}),
    tasks={
        "lambada": TaskScore("acc", 0.15, 0.015, 600, True),
        "arc": TaskScore("acc_norm", 0.4, 0.03, 600, True, has_choices=True),
        "winogrande": TaskScore("acc", 0.6, 0.04, 600, True, has_choices=True),
        "wikitext": TaskScore("word_perplexity", 45.0, None, 60, False),
    },
    generation=GenerationChecks(0.5, 0.25, [Answer("?", "!", False, False)] * 4),
    teacher=TEACHER,
)


def test_every_figure_is_compared_in_its_way() -> None:
    heading, rows = comparison({"a": STUDENT.to_dict()})
    assert heading == ["", "teacher", "a", "kept"]
    assert rows == [
        ["perplexity", "20.00", "25.00", "1.250 x"],
        ["KL to the teacher, nats", "", "0.250", ""],
        ["top-1 agreement", "", "0.900", ""],
        ["passages, first copy, nats", "4.000", "4.250", "+0.250"],
        ["passages, second copy, nats", "0.500", "1.750", "+1.250"],
        ["look-up over 0 tokens", "0.800 ± 0.025", "0.400 ± 0.031", "50%"],
        ["look-up over 128 tokens", "0.000 ± 0.000", "0.500 ± 0.031", ""],
        ["lambada (acc)", "0.300 ± 0.020", "0.150 ± 0.015", "50%"],
        ["arc (acc_norm)", "0.500 ± 0.030", "0.400 ± 0.030", "80%"],
        ["winogrande (acc)", "0.600 ± 0.040", "0.600 ± 0.040", "100%"],
        ["wikitext (word_perplexity)", "30.00", "45.00", "1.500 x"],
        ["multiple choice, mean of 2", "0.550 ± 0.025", "0.500 ± 0.025", "91%"],
        ["right answers, of 4", "0.750", "0.500", "67%"],
        ["degenerate answers", "0.000", "0.250", "+0.250"],
    ]


def test_it_reads_what_json_keeps() -> None:
    figures = STUDENT.to_dict()
    assert comparison({"a": json.loads(json.dumps(figures))}) == comparison({"a": figures})


def test_several_students_stand_side_by_side() -> None:
    hopeless = replace(STUDENT, perplexity=math.inf, tasks=None)
    heading, rows = comparison({"a": STUDENT.to_dict(), "b": hopeless.to_dict()})
    assert heading == ["", "teacher", "a", "kept", "b", "kept"]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["perplexity"] == ["20.00", "25.00", "1.250 x", "inf", ""]
    assert cells["lambada (acc)"] == ["0.300 ± 0.020", "0.150 ± 0.015", "50%", "", ""]


def test_without_a_teacher_there_is_nothing_kept() -> None:
    alone = Evaluation(25.0, 1000)
    assert comparison({"a": alone.to_dict()}) == (["", "a"], [["perplexity", "25.00"]])
    assert how_measured({"data": "b.txt", "figures": alone.to_dict()}) == "Perplexity on 1,000 tokens of b.txt."
    plain = Evaluation(25.0, 1000, 0.25, 0.9, 20.0).to_dict()
    assert comparison({"a": plain})[1][0] == ["perplexity", "20.00", "25.00", "1.250 x"]
    assert how_measured({"data": "b.txt", "figures": plain}).endswith("else the difference.")


def test_figures_of_an_earlier_release_have_no_mean_over_choices() -> None:
    figures = json.loads(json.dumps(STUDENT.to_dict()))
    for evaluation in (figures, figures["teacher"]):
        evaluation.pop("kept", None)
        del evaluation["multiple_choice"]
        for score in evaluation["tasks"].values():
            del score["has_choices"]
    heading, rows = comparison({"a": STUDENT.to_dict()})
    without = [row for row in rows if not row[0].startswith("multiple choice")]
    assert comparison({"a": figures}) == (heading, without)
    assert len(without) == len(rows) - 1
