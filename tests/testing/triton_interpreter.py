# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Triton's interpreter runs kernels themselves on a CPU, in a process that was started for it."""

import importlib.util
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which comes with torch for GPUs"
)


def run_interpreted(file: str) -> None:
    """Runs a test file as a program, whose main part begins with `stand_in_for_a_gpu`."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


def stand_in_for_a_gpu() -> None:
    """What launches kernels looks up the device of a tensor, which a CPU is not for it."""
    torch.cuda.device_of = lambda tensor: nullcontext()  # type: ignore[assignment,misc]
