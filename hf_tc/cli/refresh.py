# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""`hf-tc refresh`."""

import argparse
from typing import Any

from hf_tc.cli.shared import add_command, console


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "refresh",
        run,
        "give a saved student the code of this hf_tc; weights and all else stay as they are",
        "me/qwen3-hybrid",
    )
    parser.add_argument("student", help="folder or Hub id")
    parser.add_argument("--force", action="store_true", help="also replace code that was edited or is of a later hf_tc")


def run(options: argparse.Namespace) -> None:
    from hf_tc.hub.refresh import refresh
    from hf_tc.modeling.supported_versions import HF_TC_VERSION

    changed = refresh(options.student, options.force)
    if changed:
        console.print(f"Code of hf_tc {HF_TC_VERSION} in {options.student}: {', '.join(changed)}", soft_wrap=True)
    else:
        console.print(f"{options.student} has the code of hf_tc {HF_TC_VERSION} already.", soft_wrap=True)
