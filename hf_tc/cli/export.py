# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc export`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import DEFAULT, add_command, console
from hf_tc.export import FORMATS


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "export",
        run,
        "write a student of --mixer-form qwen3_5 as a checkpoint of Qwen3.5's architecture, which engines know",
        "student exported --format mlx",
    )
    parser.add_argument("student", help="folder or Hub id")
    parser.add_argument("out", type=Path, help="folder of the checkpoint; with --format gguf a file, NAME.gguf")
    for_whom = ", ".join(f"{name} for {readers}" for name, readers in FORMATS.items())
    parser.add_argument("--format", choices=FORMATS, default="qwen3_5", help=f"{for_whom} {DEFAULT}")
    parser.add_argument(
        "--llama-cpp",
        type=Path,
        help="for gguf: folder of llama.cpp's source, or convert_hf_to_gguf.py in it (default: LLAMA_CPP of the "
        "environment)",
    )


def run(options: argparse.Namespace) -> None:
    from hf_tc.export.export import export_student

    out = export_student(options.student, options.out, options.format, llama_cpp=options.llama_cpp)
    console.print(f"Exported for {FORMATS[options.format]}: {out}", soft_wrap=True, highlight=False)
