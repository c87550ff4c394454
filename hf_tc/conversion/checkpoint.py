# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Finished layers of a conversion on disk, so that an interrupted one goes on where it stopped."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_tc.config import AlignmentConfig
from hf_tc.report.records import LayerReport
from hf_tc.resume.arguments import ARGUMENTS_FILE, record_arguments, replace_file

JOINT_FILE, PROGRESS_FILE = "joint.safetensors", "joint-progress.safetensors"
SCORES, CANDIDATES = "scores", "candidates"  # folders beside the layers, of the choice between them


class ConversionCheckpoint:
    """A folder with the conversion's arguments and one file per finished layer.

    Args:
        folder: made if it does not exist.
        arguments: everything the result depends on, JSON-able.

    Raises:
        ValueError: the folder belongs to a conversion with other arguments; the message names them.
    """

    def __init__(self, folder: str | Path, arguments: dict[str, Any]) -> None:
        self.folder, self.arguments = Path(folder), arguments
        self.folder.mkdir(parents=True, exist_ok=True)
        record_arguments(self.folder / ARGUMENTS_FILE, arguments)

    @property
    def joint_progress(self) -> Path:
        """Where a joint alignment under way is kept."""
        return self.folder / PROGRESS_FILE

    def has(self, layer: int) -> bool:
        """Whether the layer is there, whole: a file that a full disk or a power cut tore does not count."""
        return _is_whole(self._path(layer))

    def has_joint(self, settings: AlignmentConfig) -> bool:
        """Whether the weights after this joint alignment are there. With another one the layers are the same."""
        path = self.folder / JOINT_FILE
        if not _is_whole(path):
            return False
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("settings") == _as_json(settings)

    def save(self, layer: int, weights: dict[str, dict[str, Tensor]], row: LayerReport) -> None:
        """Stores a finished layer: its weights by stage ("closed_form", "aligned") and its row of the report."""
        _write(self._path(layer), weights, {"row": _as_json(row)})

    def save_joint(self, weights: dict[int, dict[str, Tensor]], settings: AlignmentConfig) -> None:
        """Stores the weights of all layers after a joint alignment."""
        groups = {str(layer): parts for layer, parts in weights.items()}
        _write(self.folder / JOINT_FILE, groups, {"settings": _as_json(settings)})

    def weights(self, layer: int, stage: str) -> dict[str, Tensor]:
        """The weights of a finished layer at a stage ("closed_form", "aligned", "joint"), by parameter name."""
        if stage == "joint":
            return _read(self.folder / JOINT_FILE, str(layer))
        return _read(self._path(layer), stage)

    def row(self, layer: int) -> LayerReport:
        with safe_open(self._path(layer), "pt") as file:
            return LayerReport(**json.loads(file.metadata()["row"]))

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:03d}.safetensors"


def _as_json(record: LayerReport | AlignmentConfig) -> str:
    return json.dumps(asdict(record))


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _write(path: Path, groups: dict[str, dict[str, Tensor]], metadata: dict[str, str]) -> None:
    flat = {
        f"{group}/{name}": value.detach().cpu().contiguous()
        for group, parts in groups.items()
        for name, value in parts.items()
    }
    replace_file(path, lambda part: save_file(flat, part, metadata=metadata))


def _read(path: Path, group: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{group}/")]  # noqa: SIM118, not a dict
        return {name.split("/", 1)[1]: file.get_tensor(name) for name in names}
