# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A teacher, a text and the student converted from them by command line; no test changes one of them."""

from pathlib import Path

import pytest
from command_lines import QUICK, UNIFORM
from conversion_inputs import teacher_folder, text_file

from hf_tc.cli.main import main


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_folder(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="session")
def student(teacher: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("students") / "student"
    assert main(["convert", str(teacher), "--out", str(out), "--data", str(text), *QUICK, *UNIFORM]) == 0
    return out
