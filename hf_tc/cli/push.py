# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc push`."""

import argparse
from pathlib import Path
from typing import Any

from hf_tc.cli.shared import add_command, console


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "push", run, "upload a student's folder to the Hub", "student me/qwen3-hybrid")
    parser.add_argument("folder", type=Path)
    parser.add_argument("repo", help="user/name on the Hub")
    parser.add_argument("--private", action="store_true")


def run(options: argparse.Namespace) -> None:
    from hf_tc.hub.push import push_folder

    console.print(f"Uploaded: {push_folder(options.folder, options.repo, private=options.private)}")
