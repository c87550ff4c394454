# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a student said to the questions of an evaluation, beside its teacher, as cells of a Markdown table."""

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 120  # characters of an answer that are shown
NOTHING_SAID = "*nothing*"  # no answer looks like this: asterisks of answers are escaped
# What Markdown or HTML would take for its own, in a cell; without it a model's words could become links or pictures.
MARKUP = re.compile(r"[\\`*_\[\]<>|~$&@]|:(?=//)|(?<=www)\.")


def answers_table(figures: Mapping[str, Any]) -> list[list[str]]:
    """A row a question, with a heading: the teacher's answer, where it was asked too, and the student's.

    Args:
        figures: `Evaluation.to_dict()`; no rows where generation was not measured.
    """
    models = {"teacher": _answers(figures.get("teacher") or {}), "student": _answers(figures)}
    asked = {name: answers for name, answers in models.items() if answers}
    rows = [
        [cell(question), *(cell(answers[question]) if question in answers else "" for answers in asked.values())]
        for question in models["student"]
    ]
    return [["question", *asked], *rows] if rows else []


def cell(text: str) -> str:
    """A text on one line, its end cut off beyond `LONGEST` characters, escaped for a table of Markdown."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    if not line:
        return NOTHING_SAID
    return MARKUP.sub(r"\\\g<0>", line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…")


def _answers(figures: Mapping[str, Any]) -> dict[str, str]:
    """Answers by question."""
    return {row["question"]: row["answer"] for row in (figures.get("generation") or {}).get("answers", ())}
