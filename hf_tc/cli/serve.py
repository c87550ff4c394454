# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc serve`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import add_command


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "serve",
        run,
        "serve a student over HTTP; further options go to `transformers serve`",
        "student --port 8001",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("serve_arguments", nargs=argparse.REMAINDER, help="options of `transformers serve`")


def run(options: argparse.Namespace) -> None:
    from hf_tc.hub.serving import serve

    serve(options.folder, options.serve_arguments)
