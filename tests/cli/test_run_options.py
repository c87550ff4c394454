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
        ("learning_rat: 1", "has learning_rat, which are no options"),
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
