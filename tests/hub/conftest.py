# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A student, complete folders of students, and a Hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub
from student_folders import letter_tokenizer, save_student, tiny_report, tiny_student

import hf_tc


@pytest.fixture(scope="session")
def student() -> hf_tc.HybridGDNForCausalLM:
    return tiny_student()


@pytest.fixture(scope="session")
def saved(student: hf_tc.HybridGDNForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete folder, which no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "complete-student"
    save_student(student, folder, letter_tokenizer(), tiny_report())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete folder in several shards, for tests that damage it."""
    save_student(tiny_student(), tmp_path / "student", max_shard_size="20KB")
    return tmp_path / "student"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running
