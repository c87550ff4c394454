# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tasks in local files of JSON lines, so that no network is needed. Their rows have one of three forms:

    {"ctx": ..., "choices": [...], "label": 0}        which choice follows the context, by likelihood per character
    {"sentence": "... _ ...", "choices": [...], "label": 0}
                                                      which choice fills the blank: what follows it is likelier then
    {"text": ...}                                     is the last word of the text the model's own (as LAMBADA)?

They are scored by lm-eval as its own tasks of these kinds: ARC and HellaSwag (`acc_norm`), WinoGrande (`acc`) and
LAMBADA (`acc`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".ndjson")
FORMS = "'ctx', 'choices' and 'label', or 'sentence', 'choices' and 'label', or 'text' alone"
BLANK = "_"


def read_task_file(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, all of one form.

    Raises:
        ValueError: no such file, no row, or a row that breaks a rule; the message names the line and the rule.
    """
    if not path.is_file():
        raise ValueError(f"There is no task file {path}. Give an existing file of JSON lines.")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {path} is not JSON: {error}.") from error
        fault = _fault(row) or (rows and form_of(row) != form_of(rows[0]) and "is of another form than the first row")
        if fault:
            raise ValueError(f"Line {number} of {path} {fault}. Rows of a task have {FORMS}.")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds no row. Rows of a task have {FORMS}.")
    return rows


def form_of(row: dict[str, Any]) -> str:
    """The column that holds the text of a row: "ctx", "sentence" or "text"."""
    return next(name for name in ("ctx", "sentence", "text") if name in row)


def task_config(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """lm-eval's configuration of the task."""
    from datasets import Dataset

    columns = {"ctx": _CHOICE, "sentence": _FILLED_BLANK, "text": _LAST_WORD}[form_of(rows[0])]
    metric = {"metric": columns["metric"], "aggregation": "mean", "higher_is_better": True}
    return {
        "task": name,
        "custom_dataset": lambda **options: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "num_fewshot": 0,
        "metric_list": [metric],
        **{option: value for option, value in columns.items() if option != "metric"},
    }


def _fault(row: Any) -> str | None:
    """What is wrong with a row, None if nothing is."""
    if not isinstance(row, dict):
        return "is no object"
    if "ctx" in row or "sentence" in row:
        return _fault_of_choices(row, form_of(row))
    if "text" not in row:
        return f"has the columns {sorted(row)}"
    if not isinstance(row["text"], str) or not all(row["text"].rpartition(" ")):
        return "has a 'text' without two words, of which the last is the answer"
    return None


def _fault_of_choices(row: dict[str, Any], form: str) -> str | None:
    choices, label = row.get("choices"), row.get("label")
    if not isinstance(row[form], str):
        return f"has a {form!r} that is no text"
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(x, str) and x for x in choices):
        return "has no 'choices', a list of two texts or more"
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(choices):
        return f"has the 'label' {label!r}, which is no index of its {len(choices)} choices"
    if form == "sentence" and not row[form].partition(BLANK)[2].strip():
        return f"has a 'sentence' without a blank {BLANK} and words after it"
    return None


_CHOICE = {
    "metric": "acc_norm",
    "output_type": "multiple_choice",
    "doc_to_text": lambda row: row["ctx"],
    "doc_to_choice": lambda row: row["choices"],
    "doc_to_target": lambda row: row["label"],
}
# Contexts are the choices here, and what is scored is the end of the sentence; lm-eval wants them this way round.
_FILLED_BLANK = {
    "metric": "acc",
    "output_type": "multiple_choice",
    "doc_to_text": lambda row: row["label"],
    "doc_to_choice": lambda row: [row["sentence"].partition(BLANK)[0] + choice for choice in row["choices"]],
    "doc_to_target": lambda row: row["sentence"].partition(BLANK)[2].strip(),
}
_LAST_WORD = {
    "metric": "acc",
    "output_type": "loglikelihood",
    "doc_to_text": lambda row: row["text"].rpartition(" ")[0],
    "doc_to_target": lambda row: " " + row["text"].rpartition(" ")[2],
}
