# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the subcommands share: the console, the words for data, devices, how a subcommand is declared."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console

console = Console(stderr=True)
DATA_HELP = "text, JSON, a .csv or .tsv table, parquet, or name[:split[:column]] of the Hub"
DEFAULT = "(default: %(default)s)"  # argparse fills it in


def add_command(commands: Any, name: str, run: Callable[..., Any], text: str, example: str) -> argparse.ArgumentParser:
    """Declares `hf-tc name`, which calls `run` with the parsed options."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: hf-tc {name} {example}"
    )
    command.set_defaults(run=run)
    return command


def add_device(parser: Any) -> None:
    """`--device`, refused at once where this machine has none such."""
    parser.add_argument("--device", type=_device, help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")


def _device(text: str) -> str:
    accelerator, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    found = ["cpu"] if accelerator is None else ["cpu", *(f"{accelerator.type}:{index}" for index in range(count))]
    try:
        device = torch.device(text)
        asked = "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"
    except RuntimeError:  # not a kind of device
        asked = text
    if asked not in found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not on this machine, which has {', '.join(found)}. Give one of these, or leave --device out."
        )
    return text


def one_or_many(data: list[str] | None) -> str | list[str] | None:
    """A single value of a `nargs="+"` option as itself."""
    return data[0] if data is not None and len(data) == 1 else data


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a command was given that its result depends on."""
    return {name: value for name, value in vars(options).items() if name not in ("run", "command", "out")}
