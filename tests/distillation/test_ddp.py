# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Two processes (DDP or FSDP2 over gloo, on the CPU) train and evaluate as one process with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ddp_worker import KINDS, main
from safetensors.torch import load_file

WORKER = Path(__file__).parents[1] / "testing" / "ddp_worker.py"


pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    main(folder, 4, 2)
    return folder


@pytest.mark.parametrize("way", [[], ["fsdp2"]], ids=["ddp", "fsdp2"])
def test_two_processes_equal_one_with_the_double_batch(way: list[str], alone: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    completed = subprocess.run(
        [*launch, str(tmp_path), "2", "2", *way],
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
        assert all(shards.values()) if way else not any(shards.values())
        for name, value in single.items():
            assert pair[name] == pytest.approx(value, rel=1e-5), name
        weights = load_file(alone / kind / "weights.safetensors")
        for name, weight in load_file(tmp_path / kind / "weights.safetensors").items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5)
