# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc demo`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import DEFAULT, add_command, console
from hf_tc.resume.unfinished_work import check_not_occupied, check_writable


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "demo", run, "convert the packaged teacher and show what happened", "")
    parser.add_argument("--out", type=Path, default=Path("hf-tc-demo"), help=f"folder of the student {DEFAULT}")


def run(options: argparse.Namespace) -> None:
    from hf_tc.cli.demo_report import demo

    check_not_occupied(options.out)
    check_writable(options.out)
    demo(options.out, console)
