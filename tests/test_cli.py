# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The command line: what it writes, what it prints and where, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import equal_states, letter_teacher, state_of, teacher_folder, text_file
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tc import conversion_checkpoint, demo, fit_layer
from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.cli import build_parser, main
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.evaluation import evaluate
from hf_tc.report import ConversionReport

COMMANDS = ["demo", "select", "convert", "distill", "evaluate", "push", "serve"]
UNIFORM = ["--layer-policy", "uniform"]
QUICK = ["--calibration-tokens", "256", "--calibration-seq-len", "32", "--alignment-steps", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_folder(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def student(teacher: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("students") / "student"
    assert main(["convert", str(teacher), "--out", str(out), "--data", str(text), *QUICK, *UNIFORM]) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line on stderr with which a command ends; nothing is on stdout."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    line = shown.err.splitlines()[-1]
    assert line.startswith(f"hf-tc {arguments[0]}: ")
    return line


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """The JSON object that `evaluate --json` prints, which is all that is on stdout."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    example = words.split("example: hf-tc ")[1].split()
    assert example[0] == command
    build_parser().parse_args(example)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["convert", "teacher", "--out", "x", "--retain", "0.5", "--retained-layers", "0"],
        ["convert", "teacher", "--out", "x", "--retained-layers", "0,a"],
        ["convert", "teacher", "--out", "x", "--dtype", "float17"],
        ["distill", "student", "--teacher", "t", "--data", "d", "--out", "o"],
    ],
)
def test_a_command_line_that_does_not_parse_ends_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


# convert


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
    options = ["--calibration-tokens", "256", "--calibration-seq-len", "128", "--alignment-steps", "1", *UNIFORM]
    assert main(["convert", str(tiny_teacher_path()), "--out", str(out), "--retain", "0.5", *options]) == 0
    assert "the sample text that ships with hf_tc" in caplog.text
    heldout = sample_text_path("heldout")
    figures = evaluated(capsys, out, "--data", heldout, "--seq-len", "128", "--max-tokens", "256")
    assert figures.keys() == {"perplexity", "tokens"}
    assert figures["tokens"] == 2 * 127
    assert ConversionReport.load(out).retained_layers == [0, 2, 4, 6]


def test_convert_goes_on_after_an_interruption(
    teacher: Path, text: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align, calls = fit_layer.align_layer, []

    def dying(*args: Any, **kwargs: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return align(*args, **kwargs)

    monkeypatch.setattr(fit_layer, "align_layer", dying)
    arguments = ["convert", str(teacher), "--out", str(tmp_path / "student"), "--data", str(text), *QUICK, *UNIFORM]
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.unfinished"]
    assert main(arguments) == 0
    assert len(calls) == 3  # the first layer once, the second twice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    again, expected = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "student", student))
    assert equal_states(state_of(again), state_of(expected))


CONVERSIONS: dict[str, tuple[list[str], str]] = {
    "layer out of range": (["--retained-layers", "0,3"], "contains 3; the teacher has 3 layers"),
    "duplicate": (["--retained-layers", "1,1"], "more than once"),
    "share": (["--retain", "1.5"], "must lie in [0, 1]"),
    "too few tokens": (["--calibration-tokens", "32"], "at least two blocks"),
    "blocks longer than the text": (["--calibration-seq-len", "900", "--calibration-tokens", "9000"], "two blocks"),
    "missing data": (["--data", "/no/such.txt"], "/no/such.txt"),
    "no such device": (["--device", "abacus"], "abacus"),
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


@pytest.mark.parametrize("command", ["convert", "demo", "distill"])
def test_a_folder_that_is_not_empty_is_refused(
    command: str, teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    arguments = {
        "demo": [],
        "convert": [teacher, "--data", text, *QUICK],
        "distill": [teacher, "--teacher", teacher, "--data", text, "--tokens", "64", "--seq-len", "32"],
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(
    teacher: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    line = refused(capsys, "convert", teacher, "--out", locked / "student", "--data", text, *QUICK)
    assert "cannot be written" in line


def test_an_empty_folder_is_taken(teacher: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    out.mkdir()
    assert main(["convert", str(teacher), "--out", str(out), "--data", str(text), "--retain", "1", *QUICK]) == 0
    assert (out / "config.json").is_file()


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_shards_are_refused(
    damage: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = teacher_folder(tmp_path / "teacher", max_shard_size="20KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink() if damage == "missing" else shard.write_bytes(shard.read_bytes()[:1000])
    out = tmp_path / "student"
    refused(capsys, "convert", folder, "--out", out, "--data", text, *QUICK)
    refused(capsys, "evaluate", folder, "--data", text, "--seq-len", "32")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_students_missing_shard_is_refused(
    student: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(student)
    model.save_pretrained(tmp_path / "student", max_shard_size="20KB")
    AutoTokenizer.from_pretrained(student).save_pretrained(tmp_path / "student")
    shard = sorted((tmp_path / "student").glob("*.safetensors"))[0]
    shard.unlink()
    line = refused(capsys, "evaluate", tmp_path / "student", "--data", text, "--seq-len", "32")
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


# evaluate


def test_evaluate_prints_one_json_object_in_a_process_of_its_own(student: Path, teacher: Path, text: Path) -> None:
    arguments = [student, "--data", text, "--teacher", teacher, "--seq-len", "32", "--json", "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, "-m", "hf_tc.cli", "evaluate", *map(str, arguments)],
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
    figures = evaluated(capsys, student, "--data", text, "--teacher", teacher, "--seq-len", "50", "--max-tokens", "300")
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (student, teacher)]
    expected = evaluate(models[0], AutoTokenizer.from_pretrained(student), text, models[1], seq_len=50, max_tokens=300)
    assert figures == pytest.approx(expected.to_dict(), rel=1e-5)
    assert figures["kl"] > 0


def test_evaluate_takes_a_teacher_too(teacher: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = evaluated(capsys, teacher, "--data", text, "--teacher", teacher, "--seq-len", "32")
    assert figures["kl"] == pytest.approx(0, abs=1e-6)
    assert figures["top1_agreement"] == 1
    assert figures["perplexity"] == pytest.approx(figures["teacher_perplexity"])


def test_evaluate_prints_figures_to_read(student: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(student), "--data", str(text), str(text), "--seq-len", "32", "--device", "cpu"]) == 0
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
        (["--seq-len", "5000"], "one block of seq_len needs 5000"),
        (["--seq-len", "1"], "seq_len is 1"),
        (["--batch-size", "0", "--seq-len", "32"], "batch_size is 0"),
        (["--teacher", "/no/such/teacher"], "/no/such/teacher"),
    ],
)
def test_evaluate_refuses(
    arguments: list[str], message: str, teacher: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "evaluate", teacher, "--data", text, *arguments)
    assert message in refused(capsys, "evaluate", teacher, "--data", text, *arguments, "--json")


# distill

DISTILLATION = ["--tokens", "320", "--seq-len", "32", "--batch-size", "1"]  # ten steps


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
    options = ["--data", text, "--teacher", teacher, "--seq-len", "32", "--max-tokens", "320"]
    before, after = (evaluated(capsys, folder, *options)["kl"] for folder in (student, out))
    assert after < before


def test_distill_goes_on_after_an_interruption(
    student: Path, teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        if dies_at is not None:
            with pytest.raises(KeyboardInterrupt):
                main(["distill", *arguments])
            return None
        assert main(["distill", *arguments]) == 0
        return state_of(AutoModelForCausalLM.from_pretrained(out))

    expected = run("whole")
    assert len(steps) == 10
    run("parts", dies_at=6)
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == ["parts.unfinished"]
    found = run("parts")
    assert len(steps) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "100000", "--seq-len", "32"], "were asked for"),
        (["--tokens", "10", "--seq-len", "32"], "max_tokens is 10"),
        (["--tokens", "64", "--seq-len", "32", "--data", "/no/such.txt"], "/no/such.txt"),
        (["--tokens", "64", "--seq-len", "32", "--teacher", "/no/such"], "/no/such"),
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
) -> None:
    given = ["--teacher", teacher, "--data", text, "--out", tmp_path / "deep" / "out", *arguments]
    assert message in refused(capsys, "distill", student, *given)
    assert list(tmp_path.iterdir()) == []


def test_distill_refuses_a_teacher_with_another_vocabulary(
    student: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    refused(capsys, "distill", student, "--teacher", tiny_teacher_path(), "--data", text, "--out", out, *DISTILLATION)
    assert list(tmp_path.iterdir()) == []


# push, demo


def test_push_refuses_what_is_no_students_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in refused(capsys, "push", tmp_path, "me/student")


def test_demo_shows_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {"calibration_tokens": 256, "sequence_length": 64, "alignment_steps": 1}
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, **quick})
    for module in ("hf_tc.convert", "hf_tc.convert_layers"):
        monkeypatch.setattr(f"{module}.LADDER_TOKENS", 512)
    monkeypatch.setattr(demo, "CACHE_TOKENS", 100)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    for stage in ("teacher", "copied", "closed form", "aligned", "Converted layers", "Cache of one sequence"):
        assert stage in shown
    assert shown.count(demo.PROMPT) == 2
    assert str(out) in shown.replace(" ", "")
    assert "hf-tc distill" in shown
    assert len(AutoModelForCausalLM.from_pretrained(out).config.linear_layers) == 6
    report = ConversionReport.load(out)
    assert list(report.perplexity) == ["teacher", "copied", "closed_form", "aligned"]


def test_cache_of_a_student_grows_with_its_retained_layers_alone(student: Path) -> None:
    teacher, model = letter_teacher(), AutoModelForCausalLM.from_pretrained(student)
    layers, kv_heads, head_dim, bytes_each = 3, 2, 8, 4
    per_token = 2 * kv_heads * head_dim * bytes_each  # keys and values of one attention layer
    assert demo.cache_bytes(teacher, 40) == 40 * per_token * layers
    retained = len(model.config.retained_layers)
    assert demo.cache_bytes(model, 40) - demo.cache_bytes(model, 30) == 10 * per_token * retained
    state = 4 * head_dim * head_dim * bytes_each  # four query heads
    window = 3 * (4 + 2 * kv_heads) * head_dim * bytes_each  # the last three of four taps, over q, k and v
    constant = demo.cache_bytes(model, 30) - 30 * per_token * retained
    assert constant == (layers - retained) * (state + window)
