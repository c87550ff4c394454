# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc evaluate`: its figures, as JSON and to read, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from command_lines import evaluated, refused, unparsed
from fresh_processes import run_script
from optional_packages import needs_extra
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc.cli import main as cli
from hf_tc.cli.main import main
from hf_tc.cli.shared import console
from hf_tc.evaluation.evaluate import evaluate
from hf_tc.report.records import ConversionReport

NEEDS_LM_EVAL = needs_extra("eval", "lm_eval", "datasets")


def test_evaluate_prints_one_json_object_in_a_process_of_its_own(student: Path, teacher: Path, text: Path) -> None:
    arguments = [student, "--data", text, "--teacher", teacher, "--sequence-length", "32", "--json", "--device", "cpu"]
    result = run_script(Path(cli.__file__), "evaluate", *arguments)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert figures.keys() == {"perplexity", "tokens", "kl", "top1_agreement", "teacher_perplexity", "kept"}
    assert figures["kept"] == {"perplexity": figures["perplexity"] / figures["teacher_perplexity"]}
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
    in_python = expected.to_dict()
    assert figures.pop("kept") == pytest.approx(in_python.pop("kept"), rel=1e-5)  # which takes no nested dictionaries
    assert figures == pytest.approx(in_python, rel=1e-5)
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
    assert f"Perplexity on {2001 // 32 * 31:,} tokens" in shown.err  # both files, joined with a token of eos
    (line,) = (line.split() for line in shown.err.splitlines() if line.strip().startswith("perplexity"))
    assert float(line[1].replace(",", "")) > 1


@NEEDS_LM_EVAL
def test_several_models_stand_beside_their_teacher(
    student: Path,
    teacher: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "width", 120)
    task, more = tmp_path / "letters.jsonl", tmp_path / "more.jsonl"
    for path, labels in ((task, (0, 1, 1)), (more, (0, 0, 1, 1, 0))):
        path.write_text("".join(f'{{"ctx": "abc", "choices": ["d", "e"], "label": {label}}}\n' for label in labels))
    words = tmp_path / "words.jsonl"
    words.write_text('{"text": "The lamp was out"}\n{"text": "A road"}\n')
    out = tmp_path / "figures.json"
    arguments = [student, teacher, "--teacher", teacher, "--data", text, "--recall", "0,8", "--generation"]
    arguments += ["--tasks", f"{task},{more},{words}", "--sequence-length", "50", "--device", "cpu", "--json", out]
    assert main(["evaluate", *map(str, arguments)]) == 0
    table = capsys.readouterr().err
    models = json.loads(out.read_text())["models"]
    assert list(models) == [str(student), str(teacher)]
    of_student, of_teacher = models.values()
    alike = {name: of_teacher[name] for name in ("tokens", "recall", "tasks", "multiple_choice")}
    assert of_student["teacher"] == alike | {
        "generation": of_student["teacher"]["generation"],
        "perplexity": pytest.approx(of_teacher["perplexity"]),
    }
    assert of_student["tasks"]["letters"]["rows"] == 3
    assert {name: score["has_choices"] for name, score in of_student["tasks"].items()} == {
        "letters": True,
        "more": True,
        "words": False,
    }
    mean = sum(of_student["tasks"][name]["value"] for name in ("letters", "more")) / 2
    assert (of_student["multiple_choice"]["value"], of_student["multiple_choice"]["tasks"]) == (mean, 2)
    assert of_teacher["kept"]["perplexity"] == pytest.approx(1)
    assert of_teacher["kept"]["tasks"] == {"letters": 1, "more": 1}  # of the words the teacher knows none
    assert list(of_student["recall"]["lookup_accuracy"]) == ["0", "8"]
    assert all(label in table for label in ("second copy", "look-up", "letters", "mean of 2", "degenerate", "kept"))
    (row,) = (line.split() for line in table.splitlines() if line.strip().startswith("perplexity"))
    assert row[-2:] == ["1.000", "x"]


def test_in_a_narrow_window_models_stand_below_each_other(
    student: Path,
    teacher: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "width", 80)
    models = [tmp_path / f"a_student-with-a-long-name-of-its-own-gdn-0.25-seed{seed}" for seed in range(4)]
    for folder in models:
        shutil.copytree(student, folder)
    arguments = [*models, "--teacher", teacher, "--data", text, "--recall", "0", "--sequence-length", "50"]
    assert main(["evaluate", *map(str, arguments), "--device", "cpu"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert all(len(line) <= 80 for line in lines)
    rows = [line.split() for line in lines if line.strip().startswith("look-up over 0 tokens ")]
    assert 2 <= len(rows) <= 4
    assert sum(row.count("±") for row in rows) == len(rows) + 4  # in each table the teacher's, and of each student once


def test_figures_go_into_the_report_and_the_card(
    student: Path, teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "student"
    shutil.copytree(student, copy)
    figures = [copy, "--teacher", teacher, "--data", text, "--sequence-length", "50", "--recall", "0", "--generation"]
    evaluated(capsys, *figures, "--add-to-report")
    report = ConversionReport.load(copy)
    assert report.evaluation is not None
    assert report.evaluation["data"] == text.name
    assert report.perplexity == ConversionReport.load(student).perplexity
    for name in ("README.md", "conversion_report.md"):
        page = (copy / name).read_text()
        assert "\n## Evaluation\n" in page
        assert "| look-up over 0 tokens |" in page
        assert "\n### What it answers\n" in page
        assert page.count("| What is the capital of France? | ") == 1
        assert f"tokens of {text.name}. Look-up by chance: 0.125. Kept:" in page
    before = {path.name: path.read_bytes() for path in student.iterdir()}
    changed = {path.name for path in copy.iterdir() if path.read_bytes() != before.get(path.name)}
    assert changed == {"README.md", "conversion_report.md", "conversion_report.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/no/such.txt"], "/no/such.txt"),
        (["--sequence-length", "5000"], "one block of sequence_length needs 5000"),
        (["--sequence-length", "1"], "sequence_length is 1"),
        (["--batch-size", "0", "--sequence-length", "32"], "batch_size is 0"),
        (["--teacher", "/no/such/teacher", "--sequence-length", "32"], "/no/such/teacher"),
        (["--tasks", "/no/such.jsonl", "--sequence-length", "32"], "There is no task file /no/such.jsonl"),
        (["--task-rows", "0", "--sequence-length", "32"], "task_rows is 0"),
        (["--recall", "600", "--sequence-length", "32"], "distance 600 needs"),
        (["--add-to-report"], "has no conversion report to add to"),
    ],
)
def test_evaluate_refuses(
    arguments: list[str], message: str, teacher: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "evaluate", teacher, "--data", text, *arguments)
    assert message in refused(capsys, "evaluate", teacher, "--data", text, *arguments, "--json")


def test_what_would_be_refused_at_the_end_is_refused_at_once(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is given twice" in refused(capsys, "evaluate", teacher, teacher)
    path = tmp_path / "none" / "figures.json"
    assert "in a folder that does not exist" in refused(capsys, "evaluate", teacher, "--json", path)
    assert "'x' is no list of distances" in unparsed(capsys, "evaluate", teacher, "--recall", "x")
    assert "',' names no task" in unparsed(capsys, "evaluate", teacher, "--tasks", ",")
