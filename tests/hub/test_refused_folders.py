# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Folders that hold no complete student are refused, before anything is sent."""

import json
from pathlib import Path

import pytest
import torch
from command_lines import refused
from fake_hub import REPO
from safetensors.torch import save_file

from hf_tc.hub.folder_checks import check_student_folder, weight_files
from hf_tc.hub.push import push_folder


def test_a_missing_shard_is_refused(folder: Path) -> None:
    shard = weight_files(folder)[0]
    (folder / shard).unlink()
    with pytest.raises(ValueError, match=f"{shard} is missing or damaged"):
        push_folder(folder, REPO)


def test_a_truncated_shard_is_refused(folder: Path) -> None:
    shard = folder / weight_files(folder)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="missing or damaged"):
        push_folder(folder, REPO)


def test_folders_that_are_no_complete_student_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        check_student_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no config\.json"):
        check_student_folder(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, which may be pickled"):
        check_student_folder(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "cache.py").unlink()
    with pytest.raises(ValueError, match=r"lacks the code file cache\.py"):
        check_student_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    for changed, message in (({"auto_map": None}, "no auto_map"), ({"model_type": "llama"}, "of type 'llama'")):
        (folder / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(ValueError, match=message):
            check_student_folder(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    with pytest.raises(ValueError, match="no weights"):
        check_student_folder(folder)
    save_file({"x": torch.ones(1)}, folder / "model.safetensors")
    check_student_folder(folder)


def test_the_command_refuses_what_is_no_students_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} has no config.json" in refused(capsys, "push", tmp_path, "me/student")
