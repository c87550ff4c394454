# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Rows of messages: found by themselves, and written by the tokenizer's chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from student_folders import letter_tokenizer

from hf_tc.convert import from_teacher
from hf_tc.data.conversations import as_conversation
from hf_tc.data.token_blocks import CalibrationDataError, read_documents, token_blocks

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
OTHER = [{"role": "user", "content": "No"}]
WRITTEN, OTHER_WRITTEN = "user: Hi\nassistant: Ho\n", "user: No\n"  # by the letter tokenizer's template
SHAREGPT = [
    {"from": "system", "value": "Be"},
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Ho"},
]


def json_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ids_of(text: str) -> list[int]:
    return letter_tokenizer()(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (TALK, TALK),
        (SHAREGPT, [{"role": "system", "content": "Be"}, *TALK]),
        ([{**OTHER[0], "tool_calls": None}], OTHER),
        ([{"role": "user", "content": None}], [{"role": "user", "content": None}]),
        ([], []),
        ("text", None),
        (["text"], None),
        ([{"role": "user"}], None),
        ([*TALK, SHAREGPT[0]], None),
    ],
)
def test_what_is_a_conversation(value: Any, expected: Any) -> None:
    assert as_conversation(value) == expected


@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
def test_columns_of_messages_are_found_and_blank_ones_left_out(column: str, tmp_path: Path) -> None:
    rows = [{column: TALK, "id": 1}, {column: []}, {column: OTHER, "prompt": "No"}]
    assert read_documents(json_lines(tmp_path / "talks.jsonl", *rows)) == [TALK, OTHER]


def test_text_comes_before_messages_unless_a_column_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"messages": [TALK], "text": ["plain"]}
    assert read_documents(json_lines(tmp_path / "both.jsonl", {"messages": TALK, "text": "plain"})) == ["plain"]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, streaming: datasets.Dataset.from_dict(rows))
    assert read_documents("org/talks") == ["plain"]
    assert read_documents("org/talks:train:messages") == [TALK]


def test_parquet_and_datasets_of_messages(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"messages": [TALK, [{**OTHER[0], "name": "Ann"}]]})
    expected = [TALK, [{**OTHER[0], "name": "Ann"}]]  # the column that only one of them has is not in the other
    dataset.to_parquet(tmp_path / "talks.parquet")
    assert read_documents(tmp_path / "talks.parquet") == expected
    assert read_documents(dataset) == expected


def test_a_conversation_is_what_the_template_writes_and_no_more() -> None:
    blocks = token_blocks([TALK, OTHER], letter_tokenizer(), len(WRITTEN + OTHER_WRITTEN))
    assert blocks.tolist() == [ids_of(WRITTEN + OTHER_WRITTEN)]
    for count in (10, len(WRITTEN), len(WRITTEN) + 3):
        assert (
            token_blocks([TALK, OTHER], letter_tokenizer(), 2, count).flatten().tolist()
            == (ids_of(WRITTEN + OTHER_WRITTEN)[: count // 2 * 2])
        )


def test_texts_and_conversations_in_a_row() -> None:
    tokenizer = letter_tokenizer()
    eos = [tokenizer.eos_token_id]
    expected = [*ids_of("a"), *eos, *ids_of(OTHER_WRITTEN), *ids_of("b"), *eos, *ids_of("c")]
    assert token_blocks(["a", OTHER, "b", "c"], tokenizer, len(expected)).tolist() == [expected]


def test_conversations_need_no_eos_token() -> None:
    tokenizer = letter_tokenizer()
    tokenizer.eos_token = None
    assert token_blocks([TALK, OTHER, "end"], tokenizer, 4).numel() > 0
    with pytest.raises(CalibrationDataError, match=r"Set tokenizer.eos_token"):
        token_blocks([TALK, "middle", OTHER], tokenizer, 4)


def test_special_tokens_of_a_template_are_single_tokens() -> None:
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    expected = [bos, *ids_of("Hi"), eos, *ids_of("Ho"), eos]
    assert token_blocks([TALK], tokenizer, len(expected)).tolist() == [expected]


def test_without_a_chat_template_the_way_out_is_named() -> None:
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(CalibrationDataError, match=r"no chat template .* Set tokenizer.chat_template"):
        token_blocks([TALK], tokenizer, 4)


def test_a_conversation_that_the_template_refuses_is_shown() -> None:
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(CalibrationDataError, match=r"refuses the conversation .*'Hi'.* roles must alternate"):
        token_blocks([TALK], tokenizer, 4)


def test_an_instruct_teacher_is_converted_on_conversations(tmp_path: Path) -> None:
    from conversion_inputs import QUICK, letter_teacher

    rows = [{"messages": [{"role": "user", "content": "one two three " * n}, TALK[1]]} for n in range(1, 9)]
    data = json_lines(tmp_path / "talks.jsonl", *rows)
    student = from_teacher(letter_teacher(), letter_tokenizer(), calibration_data=data, **QUICK)
    assert student.conversion_report.data == "talks.jsonl"
    assert student.conversion_report.calibration_tokens == QUICK["calibration_tokens"]
