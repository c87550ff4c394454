# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Options of `hf-tc distill`: every field of its settings, from the command line, a file or a recipe, in this order."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from command_lines import unparsed

from hf_tc.cli.main import build_parser
from hf_tc.cli.run_options import LEFT_OUT, settings_of_options
from hf_tc.distillation import DistillationConfig
from hf_tc.distillation.recipes import RECIPES

GIVEN = ["distill", "s", "--teacher", "t", "--data", "d", "--out", "o", "--tokens", "1000000"]


def parsed(*words: Any) -> Any:
    return build_parser().parse_args([str(word) for word in words])


def settings(*words: Any) -> DistillationConfig:
    options = settings_of_options(parsed(*GIVEN, *words))
    return DistillationConfig(output_dir="out", **{**options, "use_cpu": True})


def test_every_field_is_an_option() -> None:
    options = vars(parsed(*GIVEN))
    for field in fields(DistillationConfig):
        assert field.name in options
        if field.name not in LEFT_OUT:
            assert field.name in settings_of_options(parsed(*GIVEN))


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_the_command_line_goes_before_the_file_and_the_file_before_the_recipe(suffix: str, tmp_path: Path) -> None:
    run = {
        "recipe": "paper",
        "learning-rate": 2e-5,
        "adam_beta2": 0.97,
        "dataloader_drop_last": True,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "report_to": ["none"],
        "run_name": None,
    }
    path = tmp_path / f"run.{suffix}"
    path.write_text(json.dumps(run) if suffix == "json" else "".join(f"{k}: {json.dumps(v)}\n" for k, v in run.items()))
    found = settings("--config", path, "--adam-beta2", "0.98", "--packing", "false")
    assert (found.adam_beta2, found.learning_rate, found.gate_learning_rate) == (0.98, 2e-5, 1e-4)
    assert (found.sequence_length, found.lr_scheduler_type, found.num_train_epochs) == (4096, "constant", 1)
    assert (found.dataloader_drop_last, found.lr_scheduler_kwargs, found.packing) == (True, {"num_cycles": 2}, False)
    assert settings("--config", path, "--recipe", "fast").sequence_length == 1024


@pytest.mark.parametrize("name", ["batch_size", "batch-size", "per_device_train_batch_size"])
def test_names_of_the_help_are_names_of_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"{name}: 2\nno_packing: true\nno-assistant-only-loss: false\nseq-len: 64\n")
    found = settings("--config", path)
    assert (found.per_device_train_batch_size, found.packing, found.assistant_only_loss) == (2, False, True)
    assert found.sequence_length == 64
    assert settings("--config", path, "--batch-size", "4").per_device_train_batch_size == 4


@pytest.mark.parametrize("dash", ["-", "_"])
def test_every_option_of_the_help_may_stand_in_a_file(dash: str, tmp_path: Path) -> None:
    options = {name for action in parsed_actions() for name in action.option_strings if name.startswith("--")}
    options -= {"--help", "--config"}
    assert {"--batch-size", "--no-packing", "--seq-len"} < options
    path = tmp_path / "run.yaml"
    for name in sorted(options):
        path.write_text(f"{name[2:].replace('-', dash)}: null\n")
        parsed(*GIVEN, "--config", path)


def parsed_actions() -> list[Any]:
    """Those of `hf-tc distill`, the late ones too."""
    commands = next(action for action in build_parser()._actions if action.dest == "command")
    parser = commands.choices["distill"]
    parser.format_help()
    return parser._actions


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_one_that_can_be_run(recipe: str) -> None:
    found = settings("--recipe", recipe)
    for name, value in RECIPES[recipe].settings.items():
        assert getattr(found, name) == value
    assert RECIPES[recipe].source


def test_all_but_the_student_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "teacher: t\ndata: [a.txt, b.txt]\nout: o\ncurriculum: [{tokens: 64, sequence_length: 8}, '32:16']\n"
    )
    found = parsed("distill", "s", "--config", path)
    assert (found.student, found.teacher, found.data, found.out) == ("s", "t", ["a.txt", "b.txt"], Path("o"))
    assert found.curriculum == ["64:8", "32:16"]
    assert parsed("distill", "--config", path, "--data", "c", "--out", "p", "s").data == ["c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "has learning_rat, which is no option of the command"),
        ("learning_rat: 1\nbatch: 2", "has batch, learning_rat, which are no options of the command"),
        (
            "batch_size: 2\nper-device-train-batch-size: 3",
            "has batch_size and per-device-train-batch-size, which are one",
        ),
        ("no_packing: maybe", "no_packing: maybe; it must be true or false"),
        ("student: s", "has student, which is no option"),
        ("- 1", "holds list; it must hold options"),
        ("a: [", "is neither YAML nor JSON"),
        ("learning_rate: fast", "argument --learning-rate: invalid float value: 'fast'"),
        ("recipe: slow", "recipe is 'slow'; it must be one of fast, paper, long"),
        ("output_dir: x", "--output-dir is not for this command: give --out"),
    ],
)
def test_a_file_that_cannot_be_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert message in unparsed(capsys, *GIVEN, "--config", path)


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: --teacher, --data, --out, --tokens" in unparsed(capsys, "distill", "s")
    assert "no.yaml cannot be read" in unparsed(capsys, *GIVEN, "--config", tmp_path / "no.yaml")
