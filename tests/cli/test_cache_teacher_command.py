# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc cache-teacher`, and `hf-tc distill` from what it wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import DISTILLATION, refused, unparsed
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
    as_it_is = ["--data", text, "--repeated-passages", 0]
    expected = distilled(student, tmp_path / "online", "--teacher", teacher, *as_it_is)
    alone = distilled(student, tmp_path / "alone", "--teacher-cache", cache)
    both = ["--teacher-cache", cache, "--teacher", teacher, "--data", text]
    compared = distilled(student, tmp_path / "compared", *both)
    before = state_of(AutoModelForCausalLM.from_pretrained(student))
    for name, weight in expected.items():
        torch.testing.assert_close(alone[name], weight, rtol=1e-3, atol=1e-5)
        assert torch.equal(alone[name], compared[name])
    assert any(not torch.equal(weight, before[name]) for name, weight in expected.items())


def test_options_of_a_file_and_of_a_recipe_are_for_a_cache_too(
    student: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, out = tmp_path / "run.yaml", tmp_path / "out"
    file.write_text(f"teacher_cache: {cache}\nout: {out}\ntokens: 320\nrecipe: paper\nper_device_train_batch_size: 2\n")
    assert main(["distill", str(student), "--config", str(file), "--learning-rate", "1e-3"]) == 0
    assert "The student is not measured while it is trained" in caplog.text
    run = json.loads((out / "distillation.json").read_text())
    assert (run["data"], run["teacher_top_k"]) == ("the text of a teacher's cache", len(VOCABULARY) + 1)
    assert (run["recipe"], run["curve"]) == ("paper", [])
    assert (run["tokens"], run["steps"], run["sequence_length"]) == (320, 5, 32)
    assert (run["learning_rate"], run["gate_learning_rate"], run["lr_scheduler_type"]) == (1e-3, 1e-4, "constant")


def test_a_teacher_beside_the_cache_is_measured_against(
    student: Path, teacher: Path, cache: Path, tmp_path: Path
) -> None:
    distilled(student, tmp_path / "out", "--teacher-cache", cache, "--teacher", teacher, "--evaluations", 2)
    curve = json.loads((tmp_path / "out" / "distillation.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [0, 5, 10]
    assert curve[-1]["kl"] < curve[0]["kl"]


def test_layers_are_learned_from_by_options(student: Path, teacher: Path, text: Path, tmp_path: Path) -> None:
    inputs = ["--teacher", teacher, "--data", text, "--evaluations", 0]
    usual = distilled(student, tmp_path / "usual", *inputs)
    layers = distilled(student, tmp_path / "layers", *inputs, "--layer-weight", 1, "--distribution-weight", 0)
    before = state_of(AutoModelForCausalLM.from_pretrained(student))
    last = "model.norm.weight"  # nothing after the layers has a gradient
    assert torch.equal(layers[last], before[last])
    assert not torch.equal(usual[last], before[last])
    assert any(not torch.equal(weight, before[name]) for name, weight in layers.items() if ".self_attn." in name)
    run = json.loads((tmp_path / "layers" / "distillation.json").read_text())
    assert (run["layer_weight"], run["distribution_weight"]) == (1.0, 0.0)


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

    words = ["distill", student, "--out", tmp_path / "out", *DISTILLATION]
    way_out = "(a --teacher-cache stands for --teacher and --data)"
    assert f"are required: --teacher, --data {way_out}" in unparsed(capsys, *words)
    assert f"are required: --data {way_out}" in unparsed(capsys, *words, "--teacher", teacher)
    assert "is the cache of a teacher. Give it as teacher_cache" in line("--teacher", cache, "--data", text)
    assert "Block 0 of the text is not that of the cache" in line(
        "--teacher-cache", cache, "--data", text_file(tmp_path / "other.txt", seed=5)
    )
    assert "cache has 320 tokens in blocks of 32, 640 were asked for" in line("--teacher-cache", cache, "--tokens", 640)
    assert "sequence_length is 16, and the blocks of" in line("--teacher-cache", cache, "--sequence-length", 16)
    staged = line("--teacher-cache", cache, "--curriculum", "160:16", "160:32")
    assert "curriculum is ['160:16', '160:32'], and teacher_cache has blocks of one length" in staged
    assert "layer_weight is 0.5, and train_dataset has a teacher's predictions, not its layers" in line(
        "--teacher-cache", cache, "--layer-weight", 0.5
    )
    repeated = line("--teacher-cache", cache, "--repeated-passages", 0.5)
    assert "repeated_passages is 0.5, and the predictions of teacher_cache are of its text as it is" in repeated
    assert f"{text.parent} is no cache of a teacher" in line("--teacher-cache", text.parent)
    cached = refused(capsys, "cache-teacher", teacher, "--data", text, "--out", cache, *TEXT)
    assert "exists and is not empty" in cached
