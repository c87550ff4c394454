# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc sample`: a file of rows that a conversion reads, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import QUICK, UNIFORM, refused
from conversion_inputs import letter_teacher
from student_folders import letter_tokenizer

import hf_tc
from hf_tc.cli.main import main
from hf_tc.data.text_files import read_documents
from hf_tc.data.token_blocks import count_tokens
from hf_tc.sampling import sample, sampled_text


def sampled(teacher: Path, out: Path, *options: str) -> list[Any]:
    words = ["--tokens", "300", "--out", str(out), "--device", "cpu", *options]
    assert main(["sample", str(teacher), *words]) == 0
    return read_documents(out)


def test_rows_are_written_once_and_calibrated_on(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    documents = sampled(teacher, out)
    assert sum(count_tokens(document, letter_tokenizer()) for document in documents) >= 300
    assert {type(document) for document in documents} == {str, list}
    assert list(out.parent.iterdir()) == [out]
    rows = hf_tc.sample_text(teacher, tokens=300, device="cpu")
    assert [row.get("text") or row["messages"] for row in rows] == documents
    words = ["--out", str(tmp_path / "student"), "--data", str(out), *QUICK, *UNIFORM]
    assert main(["convert", str(teacher), *words]) == 0


def test_kind_and_seed_are_the_callers(teacher: Path, tmp_path: Path) -> None:
    free = [sampled(teacher, tmp_path / f"{seed}.jsonl", "--kind", "free", "--seed", seed) for seed in "01"]
    assert {type(document) for document in free[0]} == {str}
    assert free[0] != free[1]


def test_an_interrupted_command_goes_on(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample, "replace_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampled(teacher, tmp_path / "rows.jsonl")
    monkeypatch.setattr(sampled_text, "sample_round", interrupted)  # nothing is left to sample
    assert len(sampled(teacher, tmp_path / "rows.jsonl")) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_cannot_be_sampled_is_refused_before_the_teacher_is_loaded(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "load_teacher", None)
    (tmp_path / "there.jsonl").touch()

    def line(out: str, tokens: str = "9") -> str:
        return refused(capsys, "sample", teacher, "--tokens", tokens, "--out", tmp_path / out)

    assert "there.jsonl exists. Choose another file" in line("there.jsonl")
    assert "name must end with .jsonl or .ndjson" in line("rows.txt")
    assert "tokens is 0; at least 1 is needed" in line("rows.jsonl", "0")
    monkeypatch.setattr(sample, "tokenizer_of", lambda name: letter_tokenizer_without_template())
    words = "--tokens", "9", "--kind", "chat", "--out", tmp_path / "rows.jsonl"
    assert "no chat template" in refused(capsys, "sample", teacher, *words)


def letter_tokenizer_without_template() -> Any:
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def test_a_teacher_whose_weights_are_not_finite_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = letter_teacher()
    broken.model.norm.weight.data[3] = torch.nan
    broken.save_pretrained(tmp_path / "broken")
    letter_tokenizer().save_pretrained(tmp_path / "broken")
    line = refused(
        capsys, "sample", tmp_path / "broken", "--tokens", 50, "--out", tmp_path / "out.jsonl", "--device", "cpu"
    )
    assert "The teacher's model.norm.weight has 1 of 32 values that are NaN or infinite" in line
    assert not (tmp_path / "out.jsonl").exists()
