# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers keep attention, why, and what it took to find out: as data and as a table."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


@dataclass
class LayerSelection:
    """A choice of retained layers.

    Attributes:
        policy: its name, "list" for layers that were given.
        retained_layers: ascending.
        ranking: all layers, the most worth retaining first; empty where the policy compares none.
        scores: one for each layer of `ranking`; None stands for what is not finite.
        score_meaning: what the scores are, in words.
        forwards: forward passes over the selection text, or over as many tokens made of it.
        tokens: tokens of that text.
        seconds: calibration of candidates and measurements together, also of runs that were interrupted.
        components: what each score is the sum of, by name, in the order of `ranking`; empty for scores of one part.
    """

    policy: str
    retained_layers: list[int]
    ranking: list[int] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    score_meaning: str = ""
    forwards: int = 0
    tokens: int = 0
    seconds: float = 0.0
    components: dict[str, list[float | None]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LayerSelection":
        """Raises `ValueError` for what is not a selection."""
        names = {item.name for item in fields(cls)}
        known = isinstance(data, dict) and {"policy", "retained_layers"} <= data.keys() <= names
        if not known or not _are_integers(data["retained_layers"]):
            raise ValueError("This is no selection of layers; `hf-tc select --out FILE` writes one.")
        return cls(**data)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "LayerSelection":
        """Raises `ValueError` for a file that holds no selection, `OSError` for one that cannot be read."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # of JSON or of UTF-8
            raise ValueError(f"{path} is not JSON: {error}. `hf-tc select --out FILE` writes a selection.") from error
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @property
    def cost(self) -> str:
        """What it took, in words; nothing for a choice without measurements."""
        if not self.forwards:
            return ""
        return f"{self.forwards} forward passes of {self.tokens:,} tokens, {self.seconds:,.0f} s in all"

    def table(self) -> Table:
        """The ranking, the most worth retaining first."""
        table = Table(title=f"Layers by {self.policy}", box=SIMPLE_HEAD)
        for heading in ("rank", "layer", "score", *self.components, ""):
            table.add_column(heading, justify="right" if heading else "left")
        columns = zip(self.scores, *self.components.values(), strict=True)
        for rank, (layer, scores) in enumerate(zip(self.ranking, columns, strict=True), start=1):
            kept = "retained" if layer in self.retained_layers else ""
            table.add_row(str(rank), str(layer), *map(_shown, scores), kept)
        return table


def _shown(score: float | None) -> str:
    return "not finite" if score is None else f"{score:,.4f}"


def _are_integers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)
