# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The command line as a whole: help, what does not parse, and how errors are shown."""

import inspect
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import refused, unparsed
from fresh_processes import run_code
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from tiny_models import student

from hf_tc.assets import sample_text_path, tiny_teacher_path
from hf_tc.cli.main import build_parser, main
from hf_tc.cli.shared import DATA_HELP
from hf_tc.convert import from_teacher

COMMANDS = ["demo", "sample", "select", "convert", "distill", "evaluate", "push", "serve"]
TINY, SAMPLE = str(tiny_teacher_path()), str(sample_text_path("calibration"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    example = words.split("example: hf-tc ")[1].split()
    assert example[0] == command
    build_parser().parse_args(example)


def test_the_command_and_the_classmethod_have_the_same_defaults() -> None:
    options = vars(build_parser().parse_args(["convert", "t", "--out", "o"]))
    called = {name: parameter.default for name, parameter in inspect.signature(from_teacher).parameters.items()}
    same = ("alignment_steps", "joint_steps", "calibration_tokens", "seed", "dtype")
    assert [options[name] for name in same] == [called[name] for name in same]
    assert (options["sequence_length"], options["retain"]) == (called["sequence_length"], called["retained_layers"])


def test_help_of_a_distillation_has_our_options_before_the_library_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    usage, _, shown = capsys.readouterr().out.partition("\n\n")
    assert len(usage.splitlines()) <= 2
    ours, _, others = shown.partition("transformers.TrainingArguments:")
    for option in ("--tokens", "--trains", "--temperature", "--teacher-cache"):
        assert f"\n  {option} " in ours
    assert "\n  --weight-decay " in others
    assert "--recipe {fast,paper,long}" in ours


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["--out"]),
        ("select", ["--retain", "--calibration-tokens", "--sequence-length", "--dtype", "--seed"]),
        ("convert", ["--alignment-steps", "--calibration-tokens", "--sequence-length", "--seed"]),
        ("distill", ["--sequence-length", "--learning-rate", "--seed", "--ce-weight", "--evaluations"]),
        ("evaluate", ["--sequence-length", "--batch-size"]),
    ],
)
def test_help_shows_defaults_and_formats_of_text(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    required = {"select": ["t", "--out", "o"], "convert": ["t"], "evaluate": ["m", "--data", "d"]}
    required["distill"] = ["s", "--teacher", "t", "--data", "d", "--out", "o", "--tokens", "9"]
    defaults = vars(build_parser().parse_args([command, *required.get(command, [])]))
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split("options:")[1].split())
    for option in options:
        text = shown.split(f" {option} ")[1].split(" --")[0]
        assert f"(default: {defaults[option.strip('-').replace('-', '_')]}" in text
    if command != "demo":
        assert DATA_HELP in shown


PARSED = {
    "nothing": ([], "required: command"),
    "command": (["nonsense"], "invalid choice: 'nonsense'"),
    "both": (["convert", "teacher", "--retain", "0.5", "--retained-layers", "0"], "not allowed with"),
    "letters": (["convert", "teacher", "--retained-layers", "0,a"], "'0,a' is no list of layers. Give their indices"),
    "no file": (["convert", "teacher", "--retained-layers", "no.json"], "no.json cannot be read: No such file"),
    "dtype": (["convert", "teacher", "--out", "x", "--dtype", "float17"], "invalid choice: 'float17'"),
    "misspelt": (["push", "a", "b", "--privte"], "unrecognized arguments: --privte (usage: hf-tc push --help)"),
    "missing": (["distill", "student", "--teacher", "t", "--data", "d", "--out", "o"], "required: --tokens"),
}


@pytest.mark.parametrize("kind", PARSED)
def test_a_command_line_that_does_not_parse_ends_with_one_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = PARSED[kind]
    line = unparsed(capsys, *arguments)
    assert message in line
    assert "(usage: hf-tc" in line


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "abacus", "meta", "cpu"])
@pytest.mark.parametrize(
    "command", [["convert", "t", "--dry-run"], ["select", "t", "--out", "o"], ["evaluate", "m", "--data", "d"]]
)
def test_a_device_that_is_not_there_is_refused_while_parsing(
    command: list[str], device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    if device == "cpu":
        assert build_parser().parse_args([*command, "--device", device]).device == device
        return
    line = unparsed(capsys, *command, "--device", device)
    assert f"argument --device: '{device}' is not on this machine, which has cpu. Give one of these" in line


def test_devices_are_those_of_the_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for device in ("cuda", "cuda:0", "cuda:1", "cpu"):
        assert build_parser().parse_args(["convert", "t", "--device", device]).device == device
    assert "'cuda:2' is not on this machine, which has cpu, cuda:0, cuda:1." in unparsed(
        capsys, "convert", "t", "--device", "cuda:2"
    )


@pytest.mark.parametrize(
    ("error", "hinted"),
    [(ValueError("words"), False), (RuntimeError("words"), True), (torch.OutOfMemoryError("words"), False)],
)
def test_errors_are_one_line_unless_their_traceback_is_asked_for(
    error: Exception, hinted: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("hf_tc.hub.push.push_folder", fails)
    monkeypatch.delenv("HF_TC_TRACEBACK", raising=False)
    assert ("HF_TC_TRACEBACK=1" in refused(capsys, "push", "folder", "me/student")) == hinted
    monkeypatch.setenv("HF_TC_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["push", "folder", "me/student"])


def imports_what_is_missing() -> None:
    import_module("matplotlib.figure")


def imports_it_lazily() -> None:
    """As Transformers does, whose error names a class of its own."""
    try:
        imports_what_is_missing()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Could not import module 'Trainer'.") from error


@pytest.mark.parametrize("fails", [imports_what_is_missing, imports_it_lazily])
def test_a_missing_package_is_one_line(
    fails: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as where it was not installed
    monkeypatch.setattr("hf_tc.hub.push.push_folder", lambda *_, **__: fails())
    line = refused(capsys, "push", "folder", "me/student")
    assert line == "hf-tc push: this needs the package matplotlib, which is not installed: pip install matplotlib"


@pytest.mark.parametrize("package", ["rich", "torch", "safetensors"])
def test_a_missing_package_that_every_command_needs_is_one_line_too(package: str) -> None:
    code = "import sys; sys.modules[sys.argv[1]] = None; sys.argv[0] = 'hf-tc'\n"
    code += "from hf_tc.cli.main import main; sys.exit(main(['push', 'folder', 'me/student']))"
    done = run_code(code, package)
    assert done.returncode == 2
    assert done.stderr == f"hf-tc: this needs the package {package}, which is not installed: pip install {package}\n"


@pytest.mark.parametrize(
    ("command", "old"),
    [
        (["convert", "t"], "--calibration-seq-len"),
        (["select", "t", "--out", "o"], "--calibration-seq-len"),
        (["evaluate", "m", "--data", "d"], "--seq-len"),
        (["distill", "s", "--teacher", "t", "--data", "d", "--out", "o", "--tokens", "9"], "--seq-len"),
    ],
)
def test_old_names_of_options_work_with_a_note(
    command: list[str], old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = build_parser().parse_args([*command, old, "77"])
    assert options == build_parser().parse_args([*command, "--sequence-length", "77"])
    assert capsys.readouterr().err.count(f"{old} is now --sequence-length") == 1
    with pytest.raises(SystemExit):
        build_parser().parse_args([command[0], "--help"])
    assert old not in capsys.readouterr().out


@pytest.mark.parametrize(("chosen", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait(chosen: dict[str, str], expected: str) -> None:
    """The policy is set before torch, which reads it, is loaded; and what the user set stays."""
    code = (
        "import contextlib, os, sys\n"
        "sys.argv[0] = 'hf-tc'\n"
        "from hf_tc.cli.main import main\n"
        "assert 'torch' not in sys.modules\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--version'])\n"
        "print(os.environ['OMP_WAIT_POLICY'])\n"
    )
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=others | chosen, capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[-1] == expected, done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    program = """
        import contextlib, resource
        from hf_tc.cli.main import main

        def faults_of_a_step():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            tensors = [bytearray(2**24) for _ in range(8)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        with contextlib.suppress(SystemExit):
            main(["--version"])
        print([faults_of_a_step() for _ in range(2)])
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    first, second = map(int, output.splitlines()[-1].strip("[]").split(","))
    assert second < first / 10


@pytest.mark.parametrize("name", ["nope", "no-one/nope", "/no/such/folder"])
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "NAME"],
        ["evaluate", TINY, "--teacher", "NAME"],
        ["convert", "NAME", "--out", "OUT"],
        ["convert", "NAME", "--dry-run"],
        ["select", "NAME", "--out", "OUT"],
        ["sample", "NAME", "--tokens", "10", "--out", "OUT.jsonl"],
        ["cache-teacher", "NAME", "--data", SAMPLE, "--tokens", "2048", "--out", "OUT"],
        ["distill", "NAME", "--teacher", TINY, "--data", SAMPLE, "--tokens", "2048", "--out", "OUT"],
        ["distill", TINY, "--teacher", "NAME", "--data", SAMPLE, "--tokens", "2048", "--out", "OUT"],
    ],
    ids=lambda words: "-".join(words[:3]) if "NAME" in words[:2] else "-".join((words[0], "teacher")),
)
def test_a_model_that_is_not_there_is_named(
    name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "cache-teacher":
        pytest.importorskip("datasets")
    given = [word.replace("NAME", name).replace("OUT", str(tmp_path / "out")) for word in words]
    line = refused(capsys, *given)
    assert f"{name} is neither a folder nor a model that can be reached on the Hub (" in line
    assert "). Correct the name; " in line


@pytest.mark.parametrize("command", ["refresh", "push"])
def test_a_hub_that_does_not_answer_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unanswered(*arguments: Any, **options: Any) -> None:
        raise HTTPError("[Errno -2] Name or service not known")

    student("qwen3", (0, 2)).save_pretrained(tmp_path)
    for call in ("model_info", "create_repo"):
        monkeypatch.setattr(HfApi, call, unanswered)
    given = ["me/student"] if command == "refresh" else [tmp_path, "me/student"]
    assert "the Hub cannot be reached ([Errno -2] Name or service not known)." in refused(capsys, command, *given)
