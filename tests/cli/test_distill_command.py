# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc distill`: a student that has learned, going on after an interruption, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import DISTILLATION, evaluated, refused
from conversion_inputs import state_of
from safetensors.torch import load_file
from student_folders import letter_tokenizer
from transformers import AutoModelForCausalLM

from hf_tc.assets import tiny_teacher_path
from hf_tc.cli.main import main
from hf_tc.distillation import distill
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.report.records import ConversionReport


def test_distill_writes_a_student_that_loads_and_has_learned(
    student: Path, teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "distilled"
    files = {path: path.read_bytes() for path in student.iterdir() if path.is_file()}
    arguments = [str(student), "--teacher", str(teacher), "--data", str(text), "--out", str(out), *DISTILLATION]
    assert main(["distill", *arguments]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["distilled"]
    assert {path: path.read_bytes() for path in student.iterdir() if path.is_file()} == files
    assert ConversionReport.load(out).layers == ConversionReport.load(student).layers
    assert json.loads((out / "distillation.json").read_text())["repeated_passages"] == 0.25  # of the recipe fast
    options = ["--data", text, "--teacher", teacher, "--sequence-length", "32", "--max-tokens", "320"]
    before, after = (evaluated(capsys, folder, *options)["kl"] for folder in (student, out))
    assert after < before


@pytest.mark.parametrize("options", [[], ["--trains", "lora", "--gate-learning-rate", "1e-2"]])
def test_distill_goes_on_after_an_interruption(
    options: list[str], student: Path, teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [], DistillationTrainer.training_step

    def run(name: str, dies_at: int | None = None) -> dict[str, torch.Tensor] | None:
        steps.clear()

        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            if len(steps) == dies_at:
                raise KeyboardInterrupt
            steps.append(1)
            return step(self, *args, **kwargs)

        monkeypatch.setattr(DistillationTrainer, "training_step", counted)
        out = tmp_path / name
        arguments = [str(student), "--teacher", str(teacher), "--data", str(text), "--out", str(out), *DISTILLATION]
        arguments += options
        if dies_at is not None:
            with pytest.raises(KeyboardInterrupt):
                main(["distill", *arguments])
            return None
        assert main(["distill", *arguments]) == 0
        return state_of(AutoModelForCausalLM.from_pretrained(out))

    expected, before = run("whole"), state_of(AutoModelForCausalLM.from_pretrained(student))
    same = {name for name, value in before.items() if torch.equal(expected[name], value)}
    assert expected.keys() == before.keys()
    assert any("embed" in name for name in same) == bool(options)
    assert len(steps) == 10
    run("parts", dies_at=6)
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == ["parts.unfinished"]
    found = run("parts")
    assert len(steps) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    card = (tmp_path / "parts" / "README.md").read_text(encoding="utf-8")
    assert ("\nEmbeddings, norms and the language-model head are the teacher's. MLPs" in card) == bool(options)
    assert "came from the teacher and were trained since.\n" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "100000", "--sequence-length", "32"], "were asked for"),
        (["--tokens", "10", "--sequence-length", "32"], "tokens is 10, below one sequence of 32"),
        (["--tokens", "4096", "--sequence-length", "4096"], "sequence_length is 4096, and the student has"),
        (["--curriculum", "4096:32", "4096:4096"], "curriculum has sequences of 4096 tokens, and the student has"),
        (["--tokens", "2048", "--teacher-device-map", "cuda:99"], "teacher_device_map is 'cuda:99', and this machine"),
        (["--tokens", "2048", "--report-to", "foo"], "report_to has 'foo'; it must be one of none"),
        (["--tokens", "2048", "--learning-rate", "nan"], "learning_rate is nan; it must be"),
        (["--tokens", "2048", "--evaluations", "-1"], "evaluations is -1; it must be 0 or more"),
        (["--tokens", "2048", "--eval-strategy", "epoch"], "eval_strategy is 'epoch', and the student is measured by"),
        (
            ["--tokens", "2048", "--evaluation-data", "x.txt", "--evaluations", "0"],
            "evaluation_data is given, and evaluations is 0: nothing is measured on it",
        ),
        (["--tokens", "64", "--sequence-length", "32", "--data", "/no/such.txt"], "/no/such.txt"),
        (["--tokens", "64", "--sequence-length", "32", "--teacher", "/no/such"], "/no/such"),
    ],
)
def test_distill_refuses(
    arguments: list[str],
    message: str,
    student: Path,
    teacher: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distill, "load_student", lambda name: pytest.fail(f"{name} is loaded"))
    given = ["--teacher", teacher, "--data", text, "--out", tmp_path / "deep" / "out", *arguments]
    assert message in refused(capsys, "distill", student, *given)
    assert list(tmp_path.iterdir()) == []


def test_distill_refuses_a_teacher_with_another_vocabulary(
    student: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["--teacher", tiny_teacher_path(), "--data", text, "--out", out, *DISTILLATION]
    line = refused(capsys, "distill", student, *given)
    assert "The student's tokenizer and the teacher's differ: 'a' is 4 here, 66 there" in line
    assert list(tmp_path.iterdir()) == []


def test_distill_refuses_to_evaluate_on_what_it_trains_on(
    student: Path, teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [student, "--teacher", teacher, "--data", text, "--evaluation-data", text, *DISTILLATION]
    line = refused(capsys, "distill", *given, "--out", tmp_path / "out")
    assert "of the evaluation text also stands in the training text, 1% is allowed" in line
    assert not (tmp_path / "out").exists()


def test_conversations_are_trained_on_what_the_assistant_says(
    student: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, given = tmp_path / "talks.jsonl", tmp_path / "marked"
    talk = [{"role": "user", "content": "Hello, who are you?"}, {"role": "assistant", "content": "Nobody."}]
    data.write_text((json.dumps({"messages": talk}) + "\n") * 20)
    inputs = ["--teacher", teacher, "--data", data, "--tokens", "256", "--sequence-length", "64"]
    line = refused(capsys, "distill", student, *inputs, "--out", tmp_path / "no")
    assert "no {% generation %} block" in line
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    shutil.copytree(student, given)
    tokenizer.save_pretrained(given)
    seen: list[str] = []
    step = DistillationTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: Any, **kwargs: Any) -> Any:
        for row in inputs["shift_labels"]:
            seen.extend(tokenizer.decode(row[row != -100]).split("."))
        return step(self, model, inputs, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", watched)
        options = ["--batch-size", "2", "--evaluations", "0", "--out", tmp_path / "out"]
        assert main(["distill", *map(str, [given, *inputs, *options])]) == 0
    assert len(seen) >= 4
    assert {part.strip() for part in seen} == {"Nobody", ""}
    assert json.loads((tmp_path / "out" / "distillation.json").read_text())["curve"] == []


@pytest.mark.parametrize(("options", "launcher"), [(["--fsdp"], "false"), ([], "true")])
def test_weights_in_shards_are_refused_at_once(
    options: list[str],
    launcher: str,
    student: Path,
    teacher: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else they would be found out when all training is done. `accelerate launch` says it by its environment."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", launcher)
    monkeypatch.setattr("hf_tc.distillation.distill.load_student", None)
    inputs = [student, "--teacher", teacher, "--data", text, "--out", tmp_path / "out", *DISTILLATION]
    line = refused(capsys, "distill", *inputs, *options)
    assert "FSDP is asked for, and hf-tc distill measures and saves a student that every process has whole" in line


def test_a_run_that_diverges_is_no_result(
    student: Path, teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [student, "--teacher", teacher, "--data", text, "--out", tmp_path / "out", *DISTILLATION]
    line = refused(capsys, "distill", *inputs, "--learning-rate", "1e20")
    assert "Distillation diverged" in line
    assert "of the student's model." in line
    assert "a lower learning_rate (it is 1e+20)" in line
    assert f"{tmp_path / 'out.unfinished'} goes on with the settings of this run alone: remove it" in line
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]
    for path in tmp_path.glob("out.unfinished/checkpoint-*/model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(path).values()), path
