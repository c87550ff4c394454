# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A conversion that was interrupted goes on to the same student, and only with the same arguments."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_inputs import circumstances, equal_states, letter_teacher, state_of, without_times
from layer_conversion import Interrupted, convert, interrupt_at_layer
from planted import random_blocks

from hf_tc.calibration.capture_attention import LayerStream
from hf_tc.config import MixerConfig
from hf_tc.conversion import fit_layer
from hf_tc.conversion.checkpoint import ConversionCheckpoint
from hf_tc.teachers.new_student import mixer_of


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_going_on_gives_what_an_uninterrupted_run_gives(
    finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = convert(tmp_path / "whole", ())
    teacher = letter_teacher()
    before = circumstances(teacher)
    interrupt_at_layer(monkeypatch, finished)
    with pytest.raises(Interrupted):
        convert(tmp_path / "parts", (), teacher=teacher)
    assert circumstances(teacher) == before
    monkeypatch.undo()
    solved, solve = [], fit_layer.solve
    monkeypatch.setattr(fit_layer, "solve", lambda *args, **kwargs: (solved.append(1), solve(*args, **kwargs))[1])
    student = convert(tmp_path / "parts", ())
    assert len(solved) == 3 - finished
    assert equal_states(state_of(student), state_of(expected))
    assert without_times(student.conversion_report) == without_times(expected.conversion_report)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 3}, "settings.alignment.steps"),
        ({"seed": 1}, "settings.seed"),
        ({"mixer": MixerConfig(output_norm=True)}, "settings.mixer.output_norm"),
        ({"retained": (1,)}, "retained_layers"),
        ({"blocks": random_blocks(8, 32, seed=3)}, "blocks"),
        ({"teacher": letter_teacher("llama")}, "teacher"),
    ],
)
def test_going_on_with_something_else_is_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    convert(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="unfinished work with other arguments") as error:
        convert(tmp_path, **change)
    assert f"{named}:" in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_teacher_with_one_other_weight_is_another_teacher(tmp_path: Path) -> None:
    convert(tmp_path)
    teacher = letter_teacher()
    with torch.no_grad():
        teacher.model.layers[0].mlp.up_proj.weight[3, 4] += 1e-3
    with pytest.raises(ValueError, match="teacher: "):
        convert(tmp_path, teacher=teacher)


def test_finished_layers_are_on_disk_with_both_stages(tmp_path: Path) -> None:
    student = convert(tmp_path)
    arguments = json.loads((tmp_path / "arguments.json").read_text())
    checkpoint = ConversionCheckpoint(tmp_path, arguments)
    assert equal_states(checkpoint.weights(1, "aligned"), state_of(mixer_of(student, 1)))
    assert not equal_states(checkpoint.weights(1, "closed_form"), checkpoint.weights(1, "aligned"))


def test_of_a_finished_conversion_no_layer_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = convert(tmp_path)
    monkeypatch.setattr(LayerStream, "advance", lambda *_: pytest.fail("a layer of the teacher was run again"))
    assert equal_states(state_of(convert(tmp_path)), state_of(expected))
