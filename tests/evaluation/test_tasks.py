# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Tasks from files against likelihoods by hand, and what is refused before a model is loaded."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from optional_packages import needs_extra
from student_folders import letter_tokenizer, tiny_student

from hf_tc.evaluation.task_files import read_task_file
from hf_tc.evaluation.tasks import load_tasks, measure_tasks

NEEDS_LM_EVAL = needs_extra("eval", "lm_eval", "datasets")
CHOICES = [
    {"ctx": "The lamp was out", "choices": ["again.", "and nobody knew why it was so."], "label": 0},
    {"ctx": "A", "choices": ["b", "Z and a much longer ending than the other one"], "label": 1},
    {"ctx": "Where the road ends", "choices": ["land", "rain.", "the sea begins"], "label": 0},
    {"ctx": "One, two: three.", "choices": ["four", "?"], "label": 1},
]
BLANKS = [
    {"sentence": "Ann saw Bob, so _ was seen.", "choices": ["Ann", "Bob"], "label": 1},
    {"sentence": "It was _ and so we went home.", "choices": ["late", "early"], "label": 0},
    {"sentence": "The _ fell.", "choices": ["rain", "stone"], "label": 0},
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def log_likelihood(model: Any, context: str, ending: str) -> float:
    ids = torch.tensor([letter_tokenizer()(context + ending)["input_ids"]])
    log_probs = F.log_softmax(model(ids).logits.detach()[0, :-1].double(), -1)
    return log_probs.gather(1, ids[0, 1:, None])[-len(ending) :].sum().item()


def greedy(model: Any, context: str, count: int) -> str:
    ids = letter_tokenizer()(context, return_tensors="pt")["input_ids"]
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return letter_tokenizer().decode(ids[0, -count:])


@NEEDS_LM_EVAL
def test_scores_are_those_of_the_likelihoods(tmp_path: Path) -> None:
    model, tokenizer = tiny_student().eval(), letter_tokenizer()
    # Of the four texts the model itself goes on with a "word" of two letters, of which one row has the wrong one.
    starts = ["The lamp ", "A road ", "Where ", "Rain fell on "]
    words = [greedy(model, start.rstrip() + " ", 2) for start in starts]
    assert all(word.strip() == word and " " not in word for word in words), words
    texts = [start + word for start, word in zip(starts, words, strict=True)]
    texts[1] = texts[1][:-1] + ("x" if texts[1][-1] != "x" else "y")

    files = [
        write(tmp_path / "choices.jsonl", CHOICES),
        write(tmp_path / "blanks.jsonl", BLANKS),
        write(tmp_path / "words.jsonl", [{"text": text} for text in texts]),
    ]
    tasks = load_tasks([str(files[0]), *files[1:]])
    scores = measure_tasks(model, tokenizer, tasks, batch_size=2)

    best = [
        max(range(len(row["choices"])), key=lambda i: log_likelihood(model, row["ctx"], end(row, i)) / size(row, i))
        for row in CHOICES
    ]
    expected = sum(choice == row["label"] for choice, row in zip(best, CHOICES, strict=True)) / len(CHOICES)
    assert (scores["choices"].metric, scores["choices"].value, scores["choices"].rows) == ("acc_norm", expected, 4)
    right = 0
    for row in BLANKS:
        before, after = row["sentence"].split("_")
        likelihoods = [log_likelihood(model, before + choice, after) for choice in row["choices"]]
        right += likelihoods.index(max(likelihoods)) == row["label"]
    assert (scores["blanks"].metric, scores["blanks"].value) == ("acc", pytest.approx(right / len(BLANKS)))
    assert scores["words"].value < 1
    assert scores["words"].standard_error == pytest.approx(
        (scores["words"].value * (1 - scores["words"].value) / 3) ** 0.5
    )
    assert measure_tasks(model, tokenizer, tasks, rows=3)["choices"].rows == 3  # the tasks can be used again


def end(row: dict[str, Any], choice: int) -> str:
    return " " + row["choices"][choice]


def size(row: dict[str, Any], choice: int) -> int:
    return len(row["choices"][choice])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"question": "?", "answer": "!"}, r"has the columns \['answer', 'question'\]"),
        ({"ctx": "A", "choices": ["b"], "label": 0}, "has no 'choices', a list of two texts or more"),
        ({"ctx": "A", "choices": ["b", "c"], "label": 2}, "has the 'label' 2, which is no index of its 2 choices"),
        ({"ctx": 3, "choices": ["b", "c"], "label": 1}, "has a 'ctx' that is no text"),
        ({"sentence": "No blank", "choices": ["b", "c"], "label": 1}, "has a 'sentence' without a blank _"),
        ({"text": "one"}, "has a 'text' without two words"),
        ({"text": "one two"}, "is of another form than the first row"),
        ([1], "is no object"),
    ],
)
def test_a_row_that_breaks_a_rule_is_named_with_the_rule(tmp_path: Path, row: Any, fault: str) -> None:
    path = write(tmp_path / "task.jsonl", [*CHOICES[:2], row])
    with pytest.raises(ValueError, match=rf"Line 3 of .*task\.jsonl {fault}.*Rows of a task have 'ctx', 'choices'"):
        read_task_file(path)


def test_files_that_are_not_there_or_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no task file .*none\.jsonl"):
        load_tasks([tmp_path / "none.jsonl"])
    (tmp_path / "task.jsonl").write_text('{"text": "one two"}\n\nnonsense\n')
    with pytest.raises(ValueError, match=r"Line 3 of .* is not JSON"):
        load_tasks([tmp_path / "task.jsonl"])
    (tmp_path / "task.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no row"):
        load_tasks([tmp_path / "task.jsonl"])


@NEEDS_LM_EVAL
def test_unknown_tasks_data_out_of_reach_and_equal_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no task 'lambda_openai'.*Did you mean lambada_openai\?"):
        load_tasks(["lambda_openai"])
    missing = (
        r"data of 2 of 2 tasks cannot be had: 'arc_easy': .*; 'piqa': .* such as arc_easy\.jsonl, of JSON lines with"
    )
    with pytest.raises(ValueError, match=missing):
        load_tasks(["arc_easy", "piqa"])  # tests are offline
    for name in ("here/task.txt", "task.json"):
        with pytest.raises(ValueError, match=rf"{name} is no name of a task, and files of tasks end in \.jsonl"):
            load_tasks([name])
    (tmp_path / "other").mkdir()
    files = [write(folder / "task.jsonl", CHOICES) for folder in (tmp_path, tmp_path / "other")]
    with pytest.raises(ValueError, match="Two tasks are called task"):
        load_tasks(files)


def test_without_lm_eval_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.task", None)
    with pytest.raises(ImportError, match=r"pip install 'hf_tc\[eval\]'"):
        load_tasks([write(tmp_path / "task.jsonl", CHOICES)])
