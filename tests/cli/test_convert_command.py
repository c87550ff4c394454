# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc convert`: what it writes, what it says, what it refuses, and going on after an interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import QUICK, UNIFORM, evaluated, refused
from conversion_inputs import equal_states, state_of
from layer_conversion import Interrupted, interrupt_at_layer
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.cli.main import main
from hf_tc.conversion import checkpoint as conversion_checkpoint
from hf_tc.report.records import ConversionReport


def test_convert_writes_a_student_and_says_what_it_did(
    teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "student"
    arguments = ["convert", str(teacher), "--out", str(out), "--data", str(text), "--retained-layers", "0,2", *QUICK]
    assert main([*arguments, "--dtype", "bfloat16", "--seed", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Converted layers" in shown.err
    assert "hf-tc evaluate" in shown.err.replace("\n", " ")
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.config.retained_layers == (0, 2)
    assert model.dtype == torch.bfloat16
    report = ConversionReport.load(out)
    assert (report.linear_layers, report.seed, report.alignment_steps) == ([1], 3, 1)
    assert len(AutoTokenizer.from_pretrained(out)) == 62
    assert [path.name for path in out.parent.iterdir()] == ["student"]


def test_convert_of_the_packaged_teacher_with_the_packaged_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "student"
    options = ["--calibration-tokens", "256", "--sequence-length", "128", "--alignment-steps", "1", *UNIFORM]
    assert main(["convert", str(tiny_teacher_path()), "--out", str(out), "--retain", "0.5", *options]) == 0
    assert "the sample text that ships with hf_tc" in caplog.text
    heldout = sample_text_path("heldout")
    figures = evaluated(capsys, out, "--data", heldout, "--sequence-length", "128", "--max-tokens", "256")
    assert figures.keys() == {"perplexity", "tokens"}
    assert figures["tokens"] == 2 * 127
    assert ConversionReport.load(out).retained_layers == [0, 2, 4, 6]


def test_convert_goes_on_after_an_interruption(
    teacher: Path, text: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = interrupt_at_layer(monkeypatch, 1)
    arguments = ["convert", str(teacher), "--out", str(tmp_path / "student"), "--data", str(text), *QUICK, *UNIFORM]
    with pytest.raises(Interrupted):
        main(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.unfinished"]
    assert main(arguments) == 0
    assert len(aligned) == 3  # the first layer once, the second twice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    again, expected = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "student", student))
    assert equal_states(state_of(again), state_of(expected))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left")])
def test_a_full_disk_ends_with_one_line_and_what_was_done_is_kept(
    error: Exception,
    teacher: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written, save = [], conversion_checkpoint.save_file

    def fills_up(tensors: Any, path: Path, **options: Any) -> None:
        save(tensors, path, **options)
        written.append(path)
        if len(written) == 2:
            raise error

    monkeypatch.setattr(conversion_checkpoint, "save_file", fills_up)
    out = tmp_path / "student"
    arguments = ["convert", teacher, "--out", out, "--data", text, *QUICK, *UNIFORM]
    assert "No space left" in refused(capsys, *arguments)
    assert not out.exists()
    assert len(list((tmp_path / "student.unfinished").glob("*.safetensors"))) == 1
    assert main([str(argument) for argument in arguments]) == 0
    assert len(written) == 3


CONVERSIONS: dict[str, tuple[list[str], str]] = {
    "layer out of range": (["--retained-layers", "0,3"], "contains 3; the teacher has 3 layers"),
    "duplicate": (["--retained-layers", "1,1"], "more than once"),
    "share": (["--retain", "1.5"], "must lie in [0, 1]"),
    "too few tokens": (["--calibration-tokens", "32"], "at least two blocks"),
    "blocks longer than the text": (["--sequence-length", "900", "--calibration-tokens", "9000"], "two blocks"),
    "missing data": (["--data", "/no/such.txt"], "/no/such.txt"),
    "blocks of one token": (["--sequence-length", "1"], "at least 2 tokens"),
    "joint steps": (["--joint-steps", "-1"], "joint_steps is -1"),
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_convert_refuses(
    kind: str, teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = CONVERSIONS[kind]
    out = tmp_path / "deep" / "student"
    line = refused(capsys, "convert", teacher, "--out", out, "--data", text, *QUICK, *options)
    assert message in line
    assert list(tmp_path.iterdir()) == []
