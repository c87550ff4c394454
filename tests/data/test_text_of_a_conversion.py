# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The text of a conversion: shuffled blocks, the shipped sample, and less than was asked for."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import evaluated, refused
from conversion_inputs import LENGTH, TOKENS, letter_teacher, teacher_folder, text_file
from student_folders import letter_tokenizer

from hf_tc import convert
from hf_tc.config import ConversionConfig
from hf_tc.conversion import calibration_text
from hf_tc.conversion.calibration_text import CalibrationText
from hf_tc.data.mixture import SHIPPED_SAMPLE
from hf_tc.data.token_blocks import CalibrationDataError


def settings_of(**changes: Any) -> ConversionConfig:
    return ConversionConfig(**{"calibration_tokens": TOKENS, "sequence_length": LENGTH, **changes})


def test_blocks_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    text, tokenizer = text_file(tmp_path / "text.txt"), letter_tokenizer()
    blocks = [CalibrationText(text, settings_of(seed=seed)).blocks(tokenizer) for seed in (0, 0, 1)]
    assert blocks[0].shape == (TOKENS // LENGTH, LENGTH)
    assert torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[0], blocks[2])
    as_sets = [{tuple(row) for row in some.tolist()} for some in blocks]
    assert as_sets[0] == as_sets[2]
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"][:TOKENS]
    assert as_sets[0] == {tuple(ids[i : i + LENGTH]) for i in range(0, TOKENS, LENGTH)}


def messages_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(calibration_text.logger, "warning", messages.append)
    return messages


def test_without_text_the_shipped_sample_is_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = messages_of(monkeypatch)
    text = CalibrationText(None, settings_of())
    blocks = text.blocks(letter_tokenizer())
    assert text.name == SHIPPED_SAMPLE
    assert len(blocks) == TOKENS // LENGTH
    assert len(messages) == 1
    assert SHIPPED_SAMPLE in messages[0]


def test_less_text_than_asked_for_is_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = messages_of(monkeypatch)
    short = text_file(tmp_path / "short.txt", 100)
    blocks = CalibrationText(short, settings_of()).blocks(letter_tokenizer())
    assert len(blocks) == 3
    assert len(messages) == 1
    assert "96 of the 256 tokens" in messages[0]


def test_texts_and_rows_go_through_the_same_door_as_files(tmp_path: Path) -> None:
    text, other = (text_file(tmp_path / f"{seed}.txt", seed=seed).read_text() for seed in (0, 1))
    options = {
        "retained_layers": 0.34,
        "layer_policy": "uniform",
        "calibration_tokens": TOKENS,
        "sequence_length": LENGTH,
    }
    given = {"calibration_data": [text], "evaluation_data": [{"text": other}], "alignment_steps": 0}
    student = convert.from_teacher(letter_teacher(), letter_tokenizer(), **options, **given)
    report = student.conversion_report
    assert report.data == report.arguments["calibration_data"] == "a list of texts"
    from_file = convert.from_teacher(
        letter_teacher(), letter_tokenizer(), **options, **given | {"calibration_data": tmp_path / "0.txt"}
    )
    assert report.fingerprints == from_file.conversion_report.fingerprints
    assert report.perplexity == from_file.conversion_report.perplexity
    chosen = convert.select_layers(letter_teacher(), letter_tokenizer(), calibration_data=text, **options)
    assert chosen.retained_layers == report.retained_layers
    for call in (convert.from_teacher, convert.select_layers):
        with pytest.raises(CalibrationDataError, match=r"'The cat sat\.' is no existing file"):
            call(letter_teacher(), letter_tokenizer(), calibration_data="The cat sat.")


def test_commands_read_tables_and_refuse_what_is_neither_text_nor_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, text = teacher_folder(tmp_path / "teacher"), text_file(tmp_path / "text.txt")
    table = tmp_path / "text.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], [1, text.read_text()]])
    figures = [evaluated(capsys, teacher, "--data", data, "--sequence-length", LENGTH) for data in (text, table)]
    assert figures[0] == figures[1]
    for command in ("convert", "select"):
        line = refused(capsys, command, teacher, "--out", tmp_path / "out", "--data", "The cat sat.")
        assert "'The cat sat.' is no existing file" in line
