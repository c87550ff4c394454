# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Two processes (DDP, FSDP2 or ZeRO-3 over gloo, on the CPU) train and evaluate as one with twice the batch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from ddp_worker import KINDS, main
from safetensors.torch import load_file
from servers import free_port

WORKER = Path(__file__).parents[1] / "testing" / "ddp_worker.py"
CONFIGURATIONS = Path(__file__).parents[1] / "examples" / "accelerate"
SHARDED: dict[str, set[str]] = {"ddp": set(), "fsdp2": {"model", "teacher"}, "zero3": {"model", "teacher"}}
NEEDS_DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="not installed: deepspeed")

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    main(folder, 4, 2)
    return folder


def test_accelerate_knows_the_configurations() -> None:
    """Keys that it does not know are an error; those of a section are known by the name of their argument."""
    arguments = launch_command_parser().parse_args(["train.py"])
    kinds = {}
    for path in sorted(CONFIGURATIONS.glob("*.yaml")):
        configuration = load_config_from_file(str(path))
        kinds[path.stem] = configuration.distributed_type
        assert (configuration.num_machines, configuration.use_cpu, configuration.mixed_precision) == (1, False, "no")
        unknown = [key for key in (*configuration.fsdp_config, *configuration.deepspeed_config) if key not in arguments]
        assert not unknown
    assert kinds == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}


@pytest.mark.parametrize("way", ["ddp", "fsdp2", pytest.param("zero3", marks=NEEDS_DEEPSPEED)])
def test_two_processes_equal_one_with_the_double_batch(way: str, alone: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file"]
    launch += [str(CONFIGURATIONS / f"{way}.yaml"), "--main_process_port", str(free_port()), str(WORKER)]
    paths = filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    completed = subprocess.run(
        [*launch, str(tmp_path), "2", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-4000:]

    for kind in KINDS:
        pair, single = (json.loads((folder / kind / "result.json").read_text()) for folder in (tmp_path, alone))
        assert (pair.pop("processes"), single.pop("processes")) == (2, 1)
        shards = pair.pop("shards")
        assert single.pop("shards") == {"model": 0, "teacher": 0}
        assert {part for part, count in shards.items() if count} == SHARDED[way]
        for name, value in single.items():
            assert pair[name] == pytest.approx(value, rel=1e-5), name
        weights = load_file(alone / kind / "weights.safetensors")
        for name, weight in load_file(tmp_path / kind / "weights.safetensors").items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5)
