# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A joint alignment under way on disk, so that an interrupted one goes on where it stood minutes before."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_tc.resume.arguments import replace_file

SAVED_EVERY = 120.0  # seconds; what an interruption costs at most, beside the steps to the next look at held-out text
COPIES = 4  # of the mixers in float32: weights, the best weights, and Adam's two moments


@dataclass
class Progress:
    """What a run needs to go on.

    Attributes:
        step: steps that were taken.
        not_better: looks at held-out text since the best one.
        before, best_kl: what the first look and the best one saw.
    """

    step: int
    not_better: int
    before: float
    best_kl: float
    best: dict[str, Tensor]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class ProgressFile:
    """One file, written now and then, gone when the run is done.

    Args:
        path: None keeps nothing.
        arguments: what the run depends on, JSON-able; a file of other arguments is not gone on from.
    """

    def __init__(self, path: Path | None, arguments: Any) -> None:
        self.path, self.arguments, self.saved = path, json.dumps(arguments), time.monotonic()

    def is_due(self) -> bool:
        return self.path is not None and time.monotonic() - self.saved >= SAVED_EVERY

    def write(self, progress: Progress) -> None:
        assert self.path is not None
        parts = {"best": progress.best, "weights": progress.weights, "optimizer": progress.optimizer}
        tensors = {f"{part}/{name}": x.detach().cpu() for part, named in parts.items() for name, x in named.items()}
        numbers = json.dumps([progress.step, progress.not_better, progress.before, progress.best_kl])
        metadata = {"arguments": self.arguments, "numbers": numbers}
        replace_file(self.path, lambda part: save_file(tensors, part, metadata=metadata))
        self.saved = time.monotonic()

    def read(self) -> Progress | None:
        """What was written last; None where there is nothing whole of the same arguments."""
        if self.path is None or not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata()
                if metadata["arguments"] != self.arguments:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        except SafetensorError:  # torn
            return None
        parts: dict[str, dict[str, Tensor]] = {"best": {}, "weights": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        step, not_better, before, best_kl = json.loads(metadata["numbers"])
        return Progress(step, not_better, before, best_kl, parts["best"], parts["weights"], parts["optimizer"])

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def progress_bytes(parameters: int) -> int:
    """Bytes of the file for mixers with so many parameters in all."""
    return COPIES * torch.float32.itemsize * parameters


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of all parameters, by their number in the optimiser's groups and the name of the quantity."""
    return {
        f"{number}/{name}": value
        for number, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Writes `optimizer_state` back, into the tensors that are there: a CUDA graph goes on using these."""
    parameters = _parameters(optimizer)
    for key, value in state.items():
        number, _, name = key.partition("/")
        own = optimizer.state[parameters[int(number)]]
        if name in own:
            own[name].copy_(value)
        else:
            own[name] = value if name == "step" else value.to(parameters[int(number)].device)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
