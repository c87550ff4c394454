# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The arguments of unfinished work, kept beside it, so that it goes on with the same ones or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARGUMENTS_FILE = "arguments.json"
# Names that earlier releases wrote, and what they are called now; unfinished work of theirs goes on.
RENAMED = {
    "held_out_share": "held_out_fraction",
    "warmup_share": "warmup_ratio",
    "calibration_seq_len": "sequence_length",
    "seq_len": "sequence_length",
    "student_options": "mixer",
}
# What earlier releases did not write where it could not be chosen, and its value then.
UNWRITTEN = {
    "settings.mixer.form": "gdn",
    "settings.mixer.recurrent_rope": True,
    "settings.mixer.conv_kernel_size": 4,
    "settings.mixer.output_norm": False,
    "repeated_passages": 0.0,
    "undecayed": r"(?:^|\.)(?:A_log|dt_bias|first_token_weight|[ab]_proj|short_conv|conv1d|\w*norm\d*)(?:\.|$)",
}
# What earlier releases wrote among the arguments of layers, which do not depend on it.
NOT_ASKED = "settings.joint."


def record_arguments(path: Path, arguments: dict[str, Any]) -> None:
    """Writes the arguments to a file, or checks that they are those in it.

    Args:
        arguments: everything the result depends on; what JSON does not know is kept as its `str`.

    Raises:
        ValueError: the file has other arguments; the message names each that differs and both values.
    """
    if path.exists():
        check_same_arguments(path, arguments)
    else:
        text = json.dumps(arguments, indent=2, default=str)
        replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def check_same_arguments(path: Path, arguments: dict[str, Any]) -> None:
    """The check of `record_arguments` for a file that exists."""
    written = _flat(json.loads(path.read_text(encoding="utf-8")))
    found = UNWRITTEN | {name: value for name, value in written.items() if not name.startswith(NOT_ASKED)}
    wanted = _flat(json.loads(json.dumps(arguments, default=str)))
    changed = [
        f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} now"
        for name in sorted((found.keys() - UNWRITTEN.keys()) | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise ValueError(
            f"{path.parent} holds unfinished work with other arguments ({'; '.join(changed)}). Repeat the command with "
            "those to go on, or remove the folder to start again."
        )


def _flat(arguments: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with names like "settings.seed"."""
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        name = RENAMED.get(name, name)
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file beside `path` and renames it: `path` is there whole or not at all, whenever the process dies."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # or the name could reach the disk before the content
    os.replace(part, path)


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that is written line by line, none where there is no file.

    The last one is torn where the process died writing it; it is taken out of the file, so that writing goes on there.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    return whole
