# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""llama.cpp's own converter: found, and run on an exported checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import torch

CONVERTER = "convert_hf_to_gguf.py"
VARIABLE = "LLAMA_CPP"
OUTPUT_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def converter_command(llama_cpp: str | Path | None = None) -> list[str]:
    """The converter as a command, from `llama_cpp` or the environment's LLAMA_CPP: a checkout, or the file in it.

    Raises:
        ValueError: it is not there.
    """
    given = llama_cpp or os.environ.get(VARIABLE)
    way_out = (
        "It comes with llama.cpp's source: git clone https://github.com/ggml-org/llama.cpp, pip install gguf, and give "
        f"the folder as --llama-cpp or in {VARIABLE}."
    )
    if not given:
        raise ValueError(f"A GGUF file is written by llama.cpp's {CONVERTER}. {way_out}")
    path = Path(given)
    path = path / CONVERTER if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist. {way_out}")
    return [sys.executable, str(path)]


def run_converter(command: list[str], checkpoint: Path, out: Path, dtype: torch.dtype) -> Path:
    """Converts a checkpoint into the file `out`, in the dtype of its weights.

    Raises:
        RuntimeError: the converter failed; the message ends with what it said last.
    """
    # No multi-token prediction, which Qwen3.5 has and a student has not.
    options = ["--outfile", str(out), "--outtype", OUTPUT_TYPES[dtype], "--no-nextn"]
    done = subprocess.run([*command, str(checkpoint), *options], capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise RuntimeError(f"llama.cpp's converter failed: {said}")
    return out
