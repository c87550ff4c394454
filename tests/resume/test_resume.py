# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Commands killed with SIGKILL go on when they are given again, to the result of an undisturbed run."""

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import CALIBRATION, DISTILLATION
from conversion_inputs import teacher_folder, text_file
from killed_commands import die, layer_done, start, status_of
from safetensors.torch import load_file, save_file
from transformers import Trainer

from hf_tc.cli.main import main
from hf_tc.conversion import checkpoint as conversion_checkpoint
from hf_tc.distillation.trainer import DistillationTrainer
from hf_tc.modeling import saving
from hf_tc.report.records import ConversionReport

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")

CONVERSION = ["--retain", "0", *CALIBRATION, "--alignment-steps", "3"]


def second_layer_half_written() -> None:
    def torn(tensors: Any, path: Path, **options: Any) -> None:
        save_file(tensors, path, **options)
        if "layer-001" in path.name:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()

    conversion_checkpoint.save_file = torn


def result_half_saved() -> None:
    saving.copy_code = die  # weights and configuration are written, nothing else


def result_saved() -> None:
    Path.rename = die


def result_renamed() -> None:
    rename = Path.rename
    Path.rename = lambda *args: die(rename(*args))


def fourth_step_taken() -> None:
    step, taken = DistillationTrainer.training_step, []

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        taken.append(1)
        return die() if len(taken) == 5 else step(*args, **kwargs)

    DistillationTrainer.training_step = counted


def checkpoint_half_written() -> None:
    Trainer._save_optimizer_and_scheduler = die


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """The conversion of a tiny teacher, all three layers, to a folder."""
    folder = tmp_path_factory.mktemp("given")
    teacher, text = teacher_folder(folder / "teacher"), text_file(folder / "text.txt")
    return lambda out: ["convert", str(teacher), "--out", str(out), "--data", str(text), *CONVERSION]


@pytest.fixture(scope="module")
def whole(command: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run gives, and under which name."""
    out = tmp_path_factory.mktemp("whole") / "student"
    assert status_of(command(out)) == 0
    return out


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("layer-*.safetensors")}


def assert_same_folder(found: Path, expected: Path) -> None:
    assert [path.name for path in found.parent.iterdir()] == ["student"]  # nothing unfinished is left
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    timed = {"conversion_report.json", "conversion_report.md", "calibration_log.csv", "README.md", "distillation.json"}
    for path in expected.iterdir():
        if path.name not in timed and path.suffix != ".png":
            assert (found / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_conversion_killed_at_every_kind_of_moment(
    command: Callable[[Path], list[str]], whole: Path, tmp_path: Path
) -> None:
    out, unfinished = tmp_path / "student", tmp_path / "student.unfinished"
    assert status_of(command(out), layer_done) == -signal.SIGKILL
    first = written_at(unfinished)
    assert list(first) == ["layer-000.safetensors"]

    assert status_of(command(out), second_layer_half_written) == -signal.SIGKILL
    assert written_at(unfinished) == first  # and a torn part under another name
    assert len(list(unfinished.glob("layer-001*.part"))) == 1

    assert status_of(command(out), result_half_saved) == -signal.SIGKILL
    layers = written_at(unfinished)
    assert sorted(layers) == [f"layer-{layer:03d}.safetensors" for layer in range(3)]
    assert layers["layer-000.safetensors"] == first["layer-000.safetensors"]
    assert not out.exists()

    assert status_of(command(out), result_saved) == -signal.SIGKILL
    assert written_at(unfinished) == layers
    assert not out.exists()

    assert status_of(command(out), result_renamed) == -signal.SIGKILL
    assert written_at(unfinished) == layers
    assert (out / "model.safetensors").exists()

    assert status_of(command(out)) == 0
    assert_same_folder(out, whole)


def test_a_conversion_killed_at_random_moments(
    command: Callable[[Path], list[str]], whole: Path, tmp_path: Path
) -> None:
    seconds = ConversionReport.load(whole).seconds
    chance, killed = random.Random(0), 0
    while killed < 4:
        process = start(command(tmp_path / "student"))
        process.join(chance.uniform(0.2, 1.0) * max(seconds, 1.0))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        killed += 1
    else:
        assert status_of(command(tmp_path / "student")) == 0
    assert_same_folder(tmp_path / "student", whole)


@pytest.mark.parametrize(
    ("options", "saves"),
    [
        (["--joint-steps", "2"], 3 + 1),
        (["--layer-policy", "kl", "--retain", "0.34"], 3 + 2),  # every layer is a candidate, two are converted
    ],
)
def test_a_conversion_killed_after_every_layer_redoes_none(
    options: list[str], saves: int, command: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    expected, out = tmp_path / "expected" / "student", tmp_path / "found" / "student"
    assert status_of([*command(expected), *options]) == 0
    statuses = [status_of([*command(out), *options], layer_done) for _ in range(saves)]
    assert statuses == [-signal.SIGKILL] * saves
    assert status_of([*command(out), *options], layer_done) == 0
    assert_same_folder(out, expected)


def test_other_arguments_are_refused_during_the_work_and_after_it(
    command: Callable[[Path], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(tmp_path / "student")
    assert status_of(arguments, layer_done) == -signal.SIGKILL
    for changed, named in (
        (["--seed", "3"], "settings.seed: 0 there, 3 now"),
        (["--alignment-steps", "4"], "settings.alignment.steps: 3 there, 4 now"),
        (["--retain", "0.34"], "retained_layers: [] there, "),
    ):
        assert main([*arguments, *changed]) == 2
        assert named in capsys.readouterr().err.splitlines()[-1]
    assert status_of(arguments, result_saved) == -signal.SIGKILL
    assert main([*arguments, "--seed", "3"]) == 2
    assert "(seed: 0 there, 3 now)" in capsys.readouterr().err.splitlines()[-1]


def test_a_distillation_killed_at_every_kind_of_moment(
    command: Callable[[Path], list[str]], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, teacher, _, _, _, text, *_ = command(tmp_path)

    def distill(name: str) -> list[str]:
        given = ["distill", str(whole), "--teacher", teacher, "--data", text]
        return [*given, "--out", str(tmp_path / name / "student"), *DISTILLATION]

    assert status_of(distill("expected")) == 0
    expected, out = tmp_path / "expected" / "student", tmp_path / "found" / "student"
    unfinished = out.with_name("student.unfinished")
    for moment, steps in ((fourth_step_taken, {3, 4}), (checkpoint_half_written, {3, 4, 5})):
        assert status_of(distill("found"), moment) == -signal.SIGKILL
        assert {int(path.name.split("-")[1]) for path in unfinished.glob("checkpoint-*")} == steps
    assert not (unfinished / "checkpoint-5" / "trainer_state.json").exists()

    for changed, named in (
        (["--learning-rate", "0.1"], "(learning_rate: 0.0003 there, 0.1 now)"),
        (["--tokens", "384"], "tokens: 320 there, 384 now"),
        (["--seed", "1"], "(seed: 0 there, 1 now)"),
    ):
        assert main([*distill("found"), *changed]) == 2
        assert named in capsys.readouterr().err.splitlines()[-1]

    for moment in (result_half_saved, result_renamed):
        assert status_of(distill("found"), moment) == -signal.SIGKILL
    assert status_of(distill("found")) == 0
    assert_same_folder(out, expected)
    for name, weight in load_file(expected / "model.safetensors").items():
        assert torch.equal(load_file(out / "model.safetensors")[name], weight), name
    assert json.loads((out / "config.json").read_text())["calibration"]["distilled_tokens"] == 320
