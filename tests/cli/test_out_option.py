# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`--out` of the commands that write a student: an empty or a new folder that can be written, and nothing else."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from command_lines import QUICK, refused

from hf_tc.cli.main import main


@pytest.mark.parametrize("command", ["convert", "demo", "distill"])
def test_a_folder_that_is_not_empty_is_refused(
    command: str, teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    arguments = {
        "demo": [],
        "convert": [teacher, "--data", text, *QUICK],
        "distill": [teacher, "--teacher", teacher, "--data", text, "--tokens", "64", "--sequence-length", "32"],
    }[command]
    for out in (tmp_path, tmp_path / "kept.txt"):
        assert "not empty" in refused(capsys, command, *arguments, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("command", ["convert", "demo", "distill"])
def test_a_place_where_nothing_can_be_written_is_refused_at_once(
    command: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below a regular file; the models do not exist, so a later check would say something else."""
    (tmp_path / "file").write_text("")
    arguments = {
        "demo": [],
        "convert": ["no/such", "--data", text, *QUICK],
        "distill": ["no/such", "--teacher", "no/such", "--data", text, "--tokens", "64"],
    }[command]
    out = tmp_path / "file" / "folder" / "student"
    assert "cannot be written" in refused(capsys, command, *arguments, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_refused(
    teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so for root the system's refusal is raised in its place."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:

        def denied(dir: Path) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

        monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    line = refused(capsys, "convert", teacher, "--out", locked / "student", "--data", text, *QUICK)
    assert f"{locked / 'student'} cannot be written: {locked}: Permission denied. Choose another --out." in line
    assert list(locked.iterdir()) == []


def test_an_empty_folder_is_taken(teacher: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    out.mkdir()
    assert main(["convert", str(teacher), "--out", str(out), "--data", str(text), "--retain", "1", *QUICK]) == 0
    assert (out / "config.json").is_file()
