# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Folders of models that are incomplete or contradict themselves end a command with one line that says so."""

import json
from pathlib import Path

import pytest
from command_lines import QUICK, refused
from conversion_inputs import letter_teacher, teacher_folder
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_shards_are_refused_by_name(
    damage: str, student: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = teacher_folder(tmp_path / "teacher", max_shard_size="20KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    if damage == "missing":
        shard.unlink()
        words = ["No such file", str(shard)]
    else:
        shard.write_bytes(shard.read_bytes()[:1000])
        words = [f"{shard} is missing or damaged (", "Save or download it again"]
    out, blocks = ["--out", tmp_path / "student"], ["--data", text, "--sequence-length", "32"]
    for line in (
        refused(capsys, "convert", folder, *out, "--data", text, *QUICK),
        refused(capsys, "evaluate", folder, *blocks),
        refused(capsys, "evaluate", student, "--teacher", folder, *blocks),
        refused(capsys, "distill", student, "--teacher", folder, *out, *blocks, "--tokens", "64"),
        refused(capsys, "distill", folder, "--teacher", student, *out, *blocks, "--tokens", "64"),
    ):
        assert all(word in line for word in words), line
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_students_missing_shard_is_refused(
    student: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(student)
    model.save_pretrained(tmp_path / "student", max_shard_size="20KB")
    AutoTokenizer.from_pretrained(student).save_pretrained(tmp_path / "student")
    shard = sorted((tmp_path / "student").glob("*.safetensors"))[0]
    shard.unlink()
    line = refused(capsys, "evaluate", tmp_path / "student", "--data", text, "--sequence-length", "32")
    assert shard.name in line


def test_a_students_broken_configuration_is_refused(
    student: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((student / "config.json").read_text())
    config["layer_types"][1] = "nonsense"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "'nonsense'" in refused(capsys, "evaluate", tmp_path, "--data", text)


def test_a_tokenizer_of_another_model_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = teacher_folder(tmp_path / "teacher")
    model = letter_teacher()
    model.resize_token_embeddings(50)
    model.save_pretrained(folder)
    line = refused(capsys, "convert", folder, "--out", tmp_path / "student", "--data", text, *QUICK)
    assert "tokenizer has 62 tokens" in line
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
