# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc cache-teacher`, and `hf-tc distill` from what it wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import DISTILLATION, refused
from conversion_inputs import state_of, text_file
from student_folders import VOCABULARY
from transformers import AutoModelForCausalLM

from hf_tc.cli.main import main
from hf_tc.distillation.trainer import DistillationTrainer

pytest.importorskip("datasets")

TEXT = ["--tokens", "320", "--sequence-length", "32"]


@pytest.fixture(scope="module")
def cache(teacher: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all tokens, so that nothing is lost."""
    out = tmp_path_factory.mktemp("caches") / "cache"
    words = ["--data", str(text), "--out", str(out), *TEXT, "--top-k", str(len(VOCABULARY) + 1), "--device", "cpu"]
    assert main(["cache-teacher", str(teacher), *words]) == 0
    return out


def distilled(student: Path, out: Path, *options: Any) -> dict[str, torch.Tensor]:
    assert main(["distill", str(student), "--out", str(out), *DISTILLATION, *map(str, options)]) == 0
    return state_of(AutoModelForCausalLM.from_pretrained(out))


def test_distillation_from_a_cache_is_that_beside_the_teacher(
    student: Path, teacher: Path, text: Path, cache: Path, tmp_path: Path
) -> None:
    expected = distilled(student, tmp_path / "online", "--teacher", teacher, "--data", text)
    alone = distilled(student, tmp_path / "alone", "--teacher-cache", cache)
    both = ["--teacher-cache", cache, "--teacher", teacher, "--data", text]
    compared = distilled(student, tmp_path / "compared", *both)
    before = state_of(AutoModelForCausalLM.from_pretrained(student))
    for name, weight in expected.items():
        torch.testing.assert_close(alone[name], weight, rtol=1e-3, atol=1e-5)
        assert torch.equal(alone[name], compared[name])
    assert any(not torch.equal(weight, before[name]) for name, weight in expected.items())


def test_it_goes_on_after_an_interruption(
    student: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, step, steps = distilled(student, tmp_path / "whole", "--teacher-cache", cache), [], []
    step = DistillationTrainer.training_step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", counted)
    with pytest.raises(KeyboardInterrupt):
        distilled(student, tmp_path / "parts", "--teacher-cache", cache)
    found = distilled(student, tmp_path / "parts", "--teacher-cache", cache)
    assert len(steps) == 6 + 5
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused_in_one_line(
    student: Path, teacher: Path, text: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*options: Any) -> str:
        return refused(capsys, "distill", student, "--out", tmp_path / "out", *DISTILLATION, *options)

    assert "There is no teacher to learn from. Give a --teacher and --data, or a --teacher-cache" in line()
    assert "There is no text to learn from" in line("--teacher", teacher)
    assert "is the cache of a teacher. Give it as teacher_cache" in line("--teacher", cache, "--data", text)
    assert "Block 0 of the text is not that of the cache" in line(
        "--teacher-cache", cache, "--data", text_file(tmp_path / "other.txt", seed=5)
    )
    assert "640 were asked for" in line("--teacher-cache", cache, "--tokens", 640)
    assert f"{text.parent} is no cache of a teacher" in line("--teacher-cache", text.parent)
    cached = refused(capsys, "cache-teacher", teacher, "--data", text, "--out", cache, *TEXT)
    assert "exists and is not empty" in cached
