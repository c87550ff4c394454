# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the subcommands share: the console, the words for data, how a subcommand is declared."""

import argparse
from collections.abc import Callable
from typing import Any

from rich.console import Console

console = Console(stderr=True)
DATA_HELP = "text, JSON lines, parquet, or name[:split[:column]]"


def add_command(commands: Any, name: str, run: Callable[..., Any], text: str, example: str) -> argparse.ArgumentParser:
    """Declares `hf-tc name`, which calls `run` with the parsed options."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: hf-tc {name} {example}"
    )
    command.set_defaults(run=run)
    return command


def one_or_many(data: list[str] | None) -> str | list[str] | None:
    """A single value of a `nargs="+"` option as itself."""
    return data[0] if data is not None and len(data) == 1 else data


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a command was given that its result depends on."""
    return {name: value for name, value in vars(options).items() if name not in ("run", "command", "out")}
