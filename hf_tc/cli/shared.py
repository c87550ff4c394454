# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What the subcommands share: the console, the words for data, devices, how a subcommand is declared.

Names, defaults and help of the settings are in `hf_tc.config`, those of a command's own options in its file.
"""

import argparse
from collections.abc import Callable
from typing import Any

from rich.console import Console

from hf_tc.options import OPTIONS

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


def add_settings(parser: argparse.ArgumentParser, *left_out: str) -> None:
    """The options that `hf_tc.config` declares, but those of some of its parts, and for `retained_layers`."""
    placement = parser.add_mutually_exclusive_group()
    for name, option in OPTIONS.items():
        if option.part not in left_out and name != "retained_layers":
            add_setting(placement if name in ("device", "device_map") else parser, name)


def add_setting(parser: Any, name: str) -> None:
    """One of these options."""
    field = OPTIONS[name].field
    given: dict[str, Any] = {"default": field.default, "choices": field.metadata.get("choices")}
    if field.type is bool:
        given = {"action": "store_true"}
    elif field.type in (int, int | None):
        given["type"] = int
    elif name == "device":
        given["type"] = device
    shown = f" {DEFAULT}" if field.default not in (None, False) or field.type is int else ""
    parser.add_argument(f"--{name.replace('_', '-')}", help=field.metadata["help"] + shown, **given)


def add_old_name(parser: argparse.ArgumentParser, old_name: str, name: str) -> None:
    """The name of an option until release 0.1, which goes on working, with a note."""
    parser.add_argument(
        old_name, type=int, dest=name, action=RenamedOption, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def add_sequence_length(parser: argparse.ArgumentParser) -> None:
    """`--sequence-length` of text to train or to evaluate on."""
    parser.add_argument("--sequence-length", type=int, default=1024, help=f"tokens per block {DEFAULT}")
    add_old_name(parser, "--seq-len", "sequence_length")


class RenamedOption(argparse.Action):
    """An option's old name: says the new one and does the same."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        console.print(
            f"{option_string} is now --{self.dest.replace('_', '-')}; the old name goes with the next release."
        )
        setattr(namespace, self.dest, values)


def device(text: str) -> str:
    """A value of --device, refused at once where this machine has none such."""
    from hf_tc.teachers.devices import device_name, devices

    if device_name(text) not in devices():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not on this machine, which has {', '.join(devices())}. Give one of these, or leave --device "
            "out."
        )
    return text


def one_or_many(data: list[str] | None) -> str | list[str] | None:
    """A single value of a `nargs="+"` option as itself."""
    return data[0] if data is not None and len(data) == 1 else data


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a command was given that its result depends on."""
    return {name: value for name, value in vars(options).items() if name not in ("run", "command", "out")}
