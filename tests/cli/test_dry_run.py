# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc convert --dry-run` needs a configuration and nothing else."""

import json
from pathlib import Path

import pytest
import torch
from conversion_inputs import teacher_folder
from fake_hub import FakeHub
from fresh_processes import run_script
from tiny_sizes import SIZES
from transformers import AutoConfig

from hf_tc.cli import main as cli


def test_of_a_hub_id_the_configuration_alone_is_fetched(tmp_path: Path) -> None:
    teacher_folder(tmp_path / "teacher")
    files = {path.name: path.read_bytes() for path in (tmp_path / "teacher").iterdir()}
    assert "model.safetensors" in files
    with FakeHub() as hub:
        hub.repos["some-org/teacher"] = files
        environment = {**hub.environment, "HF_HOME": str(tmp_path / "home"), "COLUMNS": "100"}
        options = ["--dry-run", "--layer-policy", "uniform"]
        done = run_script(Path(cli.__file__), "convert", "some-org/teacher", *options, **environment)
        fetched = {request.split("/")[-1] for request in hub.requests if "/resolve/" in request}
    assert done.returncode == 0, done.stderr
    assert "1 of 3 keep attention: 0 (uniform); 2 become recurrent" in done.stderr
    assert "config.json" in fetched
    assert not any(name.endswith((".safetensors", ".index.json", ".bin")) for name in fetched)


def test_dry_run_needs_no_folder_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(AutoConfig.for_model("llama", **SIZES).to_dict()))
    assert cli.main(["convert", str(tmp_path / "config.json"), "--dry-run", "--retained-layers", "0,2"]) == 0
    shown = capsys.readouterr().err
    assert "2 of 3 keep attention" in shown
    assert "Calibration text: the sample text that ships with hf_tc" in shown
    assert ("from the teacher" in shown) is torch.cuda.is_available()
    assert cli.main(["convert", str(tmp_path / "config.json"), "--dry-run", "--data", "sampled"]) == 0
    assert "sampling 65,536 tokens from the teacher" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["convert", str(tmp_path)]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
