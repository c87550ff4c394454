# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which devices this machine has, and whether one that is asked for is among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

DISPATCHES = ("auto", "balanced", "balanced_low_0", "sequential")


def check_devices(name: str, value: Any, words: tuple[str, ...] = DISPATCHES) -> None:
    """Raises `ValueError` for a device that this machine does not have.

    Args:
        name: of the setting.
        value: as `from_pretrained` takes a `device_map`: a device, a word such as auto, or devices by module; None is
            no setting.
        words: that are taken beside devices; () where it is a device alone.
    """
    if value is None:
        return
    named = value.values() if isinstance(value, Mapping) else [value]
    usual = ("disk",) if isinstance(value, Mapping) else words
    found = devices()
    count = len(found) - 1
    for asked in named:
        if asked in usual or device_name(asked) in found:
            continue
        gpus = "1 GPU" if count == 1 else f"{count} GPUs"
        raise ValueError(
            f"{name} is {str(asked)!r}, and this machine has {gpus}: it must be {' or '.join([*found, *usual])}. "
            "Give one of these, or leave it out."
        )


def devices() -> list[str]:
    """The names of this machine's devices: cpu, cuda:0, ..."""
    return ["cpu", *(f"{_accelerator()}:{index}" for index in range(torch.accelerator.device_count()))]


def device_name(asked: Any) -> str:
    """A device with its number, as in `devices`; of what is none, the words given."""
    if isinstance(asked, int) and not isinstance(asked, bool):
        return f"{_accelerator()}:{asked}"
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError):
        return str(asked)
    return "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"


def _accelerator() -> str:
    accelerator = torch.accelerator.current_accelerator()
    return "cuda" if accelerator is None else accelerator.type
