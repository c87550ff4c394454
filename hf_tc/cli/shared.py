# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the subcommands share: the console, the words for data, devices, how a subcommand is declared."""

import argparse
from collections.abc import Callable
from typing import Any

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


def add_sequence_length(parser: argparse.ArgumentParser, default: int, *, old_name: str) -> None:
    """`--sequence-length`; its name until release 0.1 goes on working, with a note."""
    text = f"tokens per block {DEFAULT}"
    parser.add_argument("--sequence-length", type=int, default=default, help=text)
    parser.add_argument(old_name, type=int, dest="sequence_length", action=RenamedOption, help=argparse.SUPPRESS)


class RenamedOption(argparse.Action):
    """An option's old name: says the new one and does the same."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        console.print(
            f"{option_string} is now --{self.dest.replace('_', '-')}; the old name goes with the next release."
        )
        setattr(namespace, self.dest, values)


def add_device(parser: Any) -> None:
    """`--device`, refused at once where this machine has none such."""
    parser.add_argument("--device", type=_device, help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")


def _device(text: str) -> str:
    import torch

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
