# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a student said, in a table of Markdown: on one line, not too long, and as text whatever it said."""

from typing import Any

import pytest
from student_folders import tiny_report

from hf_tc.evaluation.figures import Answer, Evaluation, GenerationChecks
from hf_tc.report.answers import LONGEST, answers_table, cell
from hf_tc.report.page import report_page, report_sections


def figures(*answers: str, teacher: tuple[str, ...] | None = None) -> dict[str, Any]:
    def measured(texts: tuple[str, ...]) -> GenerationChecks:
        return GenerationChecks(0.0, 0.0, [Answer(f"Q{i}?", text, False, False) for i, text in enumerate(texts)])

    of_teacher = None if teacher is None else Evaluation(20.0, 1000, generation=measured(teacher))
    return Evaluation(25.0, 1000, generation=measured(answers), teacher=of_teacher).to_dict()


def test_the_teachers_answer_is_beside_the_students() -> None:
    table = answers_table(figures("Lyon.", "2 + 2 = 5", teacher=("Paris.", "4")))
    assert table == [["question", "teacher", "student"], ["Q0?", "Paris.", "Lyon."], ["Q1?", "4", "2 + 2 = 5"]]


def test_without_a_teacher_there_is_one_column_and_without_answers_no_table() -> None:
    assert answers_table(figures("Lyon.")) == [["question", "student"], ["Q0?", "Lyon."]]
    assert answers_table(Evaluation(25.0, 1000).to_dict()) == []
    assert answers_table(Evaluation(25.0, 1000, teacher=Evaluation(20.0, 1000)).to_dict()) == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Paris.\n\n  The\tcity\r\nof light", "Paris. The city of light"),
        ("a | b\\| c", r"a \| b\\\| c"),
        ("<b>*bold*</b> _x_ `y` ~~z~~ $1 &lt;", r"\<b\>\*bold\*\</b\> \_x\_ \`y\` \~\~z\~\~ \$1 \&lt;"),
        ("![a](https://b.org/c) www.d.org a@b.org", r"!\[a\](https\://b.org/c) www\.d.org a\@b.org"),
        ("Answer: 7", "Answer: 7"),
        ("\x1b[31mred\x00\u202e\u2028end", r"\[31mred end"),
        (" \n ", "*nothing*"),
        ("*nothing*", r"\*nothing\*"),
    ],
)
def test_markup_is_shown_as_it_was_said(said: str, shown: str) -> None:
    assert cell(said) == shown


def test_long_answers_are_cut() -> None:
    assert cell("a" * LONGEST) == "a" * LONGEST
    assert cell("a" * (LONGEST + 1)) == "a" * (LONGEST - 1) + "…"
    assert cell("a" * (LONGEST - 2) + " " + "|" * 9) == "a" * (LONGEST - 2) + "…"
    assert cell("|" * LONGEST) == r"\|" * LONGEST  # shown, not written, characters


def test_the_section_is_on_card_and_page_where_answers_were_measured() -> None:
    report = tiny_report().to_dict()
    report["evaluation"] = {"data": "b.txt", "student_weights": {}, "figures": figures("Lyon\n|", teacher=("Paris",))}
    for text in (report_sections(report, {}, layer_count=4), report_page(report, {}, layer_count=4)):
        _, section = text.split("### What it answers\n")
        table = "| question | teacher | student |\n| --- | --- | --- |\n| Q0? | Paris | Lyon \\| |\n\n## Layer by layer"
        assert table in section
        assert "\n\n\n" not in text
    report["evaluation"]["figures"] = Evaluation(25.0, 1000).to_dict()
    text = report_sections(report, {}, layer_count=4)
    assert "## Evaluation" in text
    assert "What it answers" not in text
