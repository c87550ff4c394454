# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc evaluate`: its figures, as JSON and to read, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import evaluated, refused
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.cli.main import main
from hf_tc.evaluation.evaluate import evaluate


def test_evaluate_prints_one_json_object_in_a_process_of_its_own(student: Path, teacher: Path, text: Path) -> None:
    arguments = [student, "--data", text, "--teacher", teacher, "--sequence-length", "32", "--json", "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, "-m", "hf_tc.cli.main", "evaluate", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert figures.keys() == {"perplexity", "tokens", "kl", "top1_agreement", "teacher_perplexity"}
    assert figures["tokens"] == 1000 // 32 * 31


def test_evaluate_gives_the_figures_of_the_python_interface(
    student: Path, teacher: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluated(
        capsys, student, "--data", text, "--teacher", teacher, "--sequence-length", "50", "--max-tokens", "300"
    )
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (student, teacher)]
    expected = evaluate(
        models[0], AutoTokenizer.from_pretrained(student), text, models[1], sequence_length=50, max_tokens=300
    )
    assert figures == pytest.approx(expected.to_dict(), rel=1e-5)
    assert figures["kl"] > 0


def test_evaluate_takes_a_teacher_too(teacher: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = evaluated(capsys, teacher, "--data", text, "--teacher", teacher, "--sequence-length", "32")
    assert figures["kl"] == pytest.approx(0, abs=1e-6)
    assert figures["top1_agreement"] == 1
    assert figures["perplexity"] == pytest.approx(figures["teacher_perplexity"])


def test_evaluate_prints_figures_to_read(student: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["evaluate", str(student), "--data", str(text), str(text), "--sequence-length", "32", "--device", "cpu"])
        == 0
    )
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line.split(":") for line in shown.err.splitlines() if ":" in line]
    figures = {name.strip(): value.strip() for name, value, *_ in lines}
    assert figures["tokens"] == f"{2001 // 32 * 31:,}"  # both files, joined with a token of eos
    assert float(figures["perplexity"].replace(",", "")) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/no/such.txt"], "/no/such.txt"),
        (["--sequence-length", "5000"], "one block of sequence_length needs 5000"),
        (["--sequence-length", "1"], "sequence_length is 1"),
        (["--batch-size", "0", "--sequence-length", "32"], "batch_size is 0"),
        (["--teacher", "/no/such/teacher"], "/no/such/teacher"),
    ],
)
def test_evaluate_refuses(
    arguments: list[str], message: str, teacher: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "evaluate", teacher, "--data", text, *arguments)
    assert message in refused(capsys, "evaluate", teacher, "--data", text, *arguments, "--json")
