# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Finished layers on disk: exact, whole or absent, and only for the same arguments."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from student_folders import tiny_report

from hf_tc.conversion import checkpoint as conversion_checkpoint
from hf_tc.conversion.checkpoint import ConversionCheckpoint

ARGUMENTS = {"seed": 0, "settings": {"steps": 3, "layers": (0, 4)}}
WEIGHTS = {
    "closed_form": {"a.weight": torch.randn(3, 2), "b": torch.zeros(4, dtype=torch.bfloat16)},
    "aligned": {"a.weight": torch.randn(2, 3).T, "b": torch.ones(4, dtype=torch.bfloat16)},
}


def test_saved_layers_come_back_exactly(tmp_path: Path) -> None:
    row = tiny_report().layers[1]
    row.error_aligned = 0.1 + 0.2
    checkpoint = ConversionCheckpoint(tmp_path / "deep" / "folder", ARGUMENTS)
    assert not checkpoint.has(2)
    checkpoint.save(2, WEIGHTS, row)
    again = ConversionCheckpoint(tmp_path / "deep" / "folder", ARGUMENTS)
    assert again.has(2)
    assert not again.has(1)
    assert asdict(again.row(2)) == asdict(row)
    for stage, weights in WEIGHTS.items():
        found = again.weights(2, stage)
        assert found.keys() == weights.keys()
        for name, value in weights.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)


@pytest.mark.parametrize(
    ("changed", "named", "unnamed"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now", "settings"),
        ({"settings": {"steps": 4, "layers": (0, 4)}}, "(settings.steps: 3 there, 4 now)", "seed"),
        ({"teacher": "other"}, "teacher: None there, 'other' now", "seed"),
    ],
)
def test_other_arguments_are_refused_and_named(
    tmp_path: Path, changed: dict[str, Any], named: str, unnamed: str
) -> None:
    ConversionCheckpoint(tmp_path, ARGUMENTS)
    with pytest.raises(ValueError, match="unfinished work with other arguments") as error:
        ConversionCheckpoint(tmp_path, {**ARGUMENTS, **changed})
    assert named in str(error.value)
    assert f"{unnamed}:" not in str(error.value)
    ConversionCheckpoint(tmp_path, ARGUMENTS)  # still the first one's


def test_an_interrupted_write_leaves_no_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = ConversionCheckpoint(tmp_path, ARGUMENTS)

    def dies_half_way(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata=metadata)
        path.write_bytes(path.read_bytes()[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion_checkpoint, "save_file", dies_half_way)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(0, WEIGHTS, tiny_report().layers[0])
    assert not ConversionCheckpoint(tmp_path, ARGUMENTS).has(0)
    monkeypatch.undo()
    checkpoint.save(0, WEIGHTS, tiny_report().layers[0])
    assert torch.equal(checkpoint.weights(0, "aligned")["a.weight"], WEIGHTS["aligned"]["a.weight"])


@pytest.mark.parametrize("left", [0, 5, 50, -1])
def test_a_torn_file_is_no_layer(tmp_path: Path, left: int) -> None:
    checkpoint = ConversionCheckpoint(tmp_path, ARGUMENTS)
    checkpoint.save(0, WEIGHTS, tiny_report().layers[0])
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:left])
    assert not checkpoint.has(0)
    checkpoint.save(0, WEIGHTS, tiny_report().layers[0])
    assert checkpoint.has(0)


def test_stages_are_told_apart_by_their_whole_name(tmp_path: Path) -> None:
    checkpoint = ConversionCheckpoint(tmp_path, ARGUMENTS)
    checkpoint.save(0, {"a": {"x/y": torch.ones(1)}, "ab": {"x/y": torch.zeros(1)}}, tiny_report().layers[0])
    assert {name: value.item() for name, value in checkpoint.weights(0, "a").items()} == {"x/y": 1.0}
