# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Two processes (DDP over gloo, on the CPU) train and evaluate as one process with twice the batch."""

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


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_two_processes_equal_one_with_the_double_batch(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    completed = subprocess.run(
        [*launch, str(tmp_path / "pair"), "2", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-4000:]
    main(tmp_path / "single", 4, 2)

    for kind in KINDS:
        pair, single = tmp_path / "pair" / kind, tmp_path / "single" / kind
        in_pair, alone = (json.loads((folder / "result.json").read_text()) for folder in (pair, single))
        assert (in_pair.pop("processes"), alone.pop("processes")) == (2, 1)
        for name, value in alone.items():
            assert in_pair[name] == pytest.approx(value, rel=1e-5), name
        weights = load_file(single / "weights.safetensors")
        for name, weight in load_file(pair / "weights.safetensors").items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5)
