# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The text of a conversion: shuffled blocks, the shipped sample, and less than was asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import LENGTH, TOKENS, text_file
from student_folders import letter_tokenizer

from hf_tc import convert
from hf_tc.convert import SHIPPED_SAMPLE, calibration_blocks, calibration_documents
from hf_tc.convert_layers import ConversionSettings


def settings_of(**changes: Any) -> ConversionSettings:
    return ConversionSettings(**{"calibration_tokens": TOKENS, "sequence_length": LENGTH, **changes})


def test_blocks_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    text, tokenizer = text_file(tmp_path / "text.txt"), letter_tokenizer()
    documents = calibration_documents(text)
    blocks = [calibration_blocks(*documents, tokenizer, settings_of(seed=seed)) for seed in (0, 0, 1)]
    assert blocks[0].shape == (TOKENS // LENGTH, LENGTH)
    assert torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[0], blocks[2])
    as_sets = [{tuple(row) for row in some.tolist()} for some in blocks]
    assert as_sets[0] == as_sets[2]
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"][:TOKENS]
    assert as_sets[0] == {tuple(ids[i : i + LENGTH]) for i in range(0, TOKENS, LENGTH)}


def messages_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(convert.logger, "warning", messages.append)
    return messages


def test_without_text_the_shipped_sample_is_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = messages_of(monkeypatch)
    documents, name = calibration_documents(None)
    blocks = calibration_blocks(documents, name, letter_tokenizer(), settings_of())
    assert name == SHIPPED_SAMPLE
    assert len(blocks) == TOKENS // LENGTH
    assert len(messages) == 1
    assert SHIPPED_SAMPLE in messages[0]


def test_less_text_than_asked_for_is_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = messages_of(monkeypatch)
    short = text_file(tmp_path / "short.txt", 100)
    blocks = calibration_blocks(*calibration_documents(short), letter_tokenizer(), settings_of())
    assert len(blocks) == 3
    assert len(messages) == 1
    assert "96 of the 256 tokens" in messages[0]
