# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Finished layers of a conversion on disk, so that an interrupted one goes on where it stopped."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from hf_tc.placement import stored_weights
from hf_tc.report import LayerReport

ARGUMENTS_FILE = "arguments.json"


class ConversionCheckpoint:
    """A folder with the conversion's arguments and one file per finished layer.

    Args:
        folder: made if it does not exist.
        arguments: everything the result depends on, JSON-able.

    Raises:
        ValueError: the folder belongs to a conversion with other arguments; the message names them.
    """

    def __init__(self, folder: str | Path, arguments: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ARGUMENTS_FILE
        arguments = json.loads(json.dumps(arguments))
        if path.exists():
            _refuse_other_arguments(json.loads(path.read_text(encoding="utf-8")), arguments, self.folder)
        else:
            _replace(path, lambda part: part.write_text(json.dumps(arguments, indent=2), encoding="utf-8"))

    def has(self, layer: int) -> bool:
        return self._path(layer).exists()

    def save(self, layer: int, weights: dict[str, dict[str, Tensor]], row: LayerReport) -> None:
        """Stores a finished layer: its weights by stage ("closed_form", "aligned") and its row of the report."""
        flat = {
            f"{stage}/{name}": value.detach().cpu().contiguous()
            for stage, parts in weights.items()
            for name, value in parts.items()
        }
        metadata = {"row": json.dumps(asdict(row))}
        _replace(self._path(layer), lambda part: save_file(flat, part, metadata=metadata))

    def weights(self, layer: int, stage: str) -> dict[str, Tensor]:
        """The weights of a finished layer at a stage, by parameter name."""
        with safe_open(self._path(layer), "pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{stage}/")]  # noqa: SIM118, not a dict
            return {name.split("/", 1)[1]: file.get_tensor(name) for name in names}

    def row(self, layer: int) -> LayerReport:
        with safe_open(self._path(layer), "pt") as file:
            return LayerReport(**json.loads(file.metadata()["row"]))

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:03d}.safetensors"


def conversion_arguments(
    teacher: PreTrainedModel, blocks: Tensor, retained: tuple[int, ...], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything that the layers of a conversion depend on, JSON-able; teacher and text by their fingerprints."""
    return {
        "settings": settings,
        "retained_layers": list(retained),
        "teacher": _fingerprint(tensor for _, tensor in stored_weights(teacher)),
        "teacher_config": teacher.config.to_diff_dict(),
        "blocks": hashlib.sha256(blocks.cpu().numpy().tobytes()).hexdigest()[:16],
    }


def _fingerprint(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().double().sum().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _refuse_other_arguments(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    changed = [
        f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} now"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds an unfinished conversion with other arguments ({'; '.join(changed)}). "
            "Repeat the command with those to go on, or remove the folder to start again."
        )


def _replace(path: Path, write: Any) -> None:
    """Writes beside `path` and renames: a file is there whole or not at all, whenever the process dies."""
    part = path.with_suffix(path.suffix + ".part")
    write(part)
    os.replace(part, path)
