# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion did, as data, as a table and as files beside the student."""

import csv
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hf_tc.layer_selection.selection import LayerSelection

REPORT_FILE = "conversion_report.json"
LOG_FILE = "calibration_log.csv"
TABLE_HEADINGS = ("layer", "distance", "half-life", "beta", "value", "gate", "copied", "closed", "aligned", "s")


@dataclass
class LayerReport:
    """One converted layer. Errors are held-out and relative: 0 for the teacher's attention, 1 for a silent layer."""

    layer: int
    mean_attention_distance: float  # tokens, mean over heads
    attention_entropy: float  # nats, mean over heads
    timescale_tokens: float  # median half-life over heads
    beta: float  # mean write gate over heads
    value_scale: float  # mean size of o_proj's new weights relative to the teacher's
    output_gate: float  # mean gate value
    error_copied: float
    error_closed_form: float
    error_aligned: float
    seconds: float
    head_distances: list[float] = field(default_factory=list)  # tokens, one a head, as the two below
    head_half_lives: list[float] = field(default_factory=list)
    head_betas: list[float] = field(default_factory=list)


@dataclass
class ConversionReport:
    """The whole conversion. `perplexity` has the stages teacher, copied, closed_form and aligned, on held-out text."""

    teacher: str
    retained_layers: list[int]
    linear_layers: list[int]
    calibration_tokens: int
    alignment_steps: int
    seed: int
    data: str
    versions: dict[str, str]
    layers: list[LayerReport] = field(default_factory=list)
    perplexity: dict[str, float | None] = field(default_factory=dict)
    perplexity_tokens: int = 0
    seconds: float = 0.0
    selection: LayerSelection | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything but what is per layer and what took how long: what goes into the student's configuration."""
        left_out = ("layers", "seconds", "selection")
        provenance = {name: value for name, value in self.to_dict().items() if name not in left_out}
        return provenance | ({} if self.selection is None else {"layer_policy": self.selection.policy})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ConversionReport":
        selection = None if data.get("selection") is None else LayerSelection.from_dict(data["selection"])
        return cls(**{**data, "layers": [LayerReport(**row) for row in data["layers"]], "selection": selection})

    def save(self, folder: str | Path) -> None:
        """Writes the report as JSON and, without what is per head, its rows as CSV."""
        folder = Path(folder)
        (folder / REPORT_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        with (folder / LOG_FILE).open("w", newline="", encoding="utf-8") as file:
            columns = [item.name for item in fields(LayerReport) if not item.name.startswith("head_")]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.layers)

    @staticmethod
    def stands_in(folder: str | Path) -> bool:
        """Whether the folder of a student holds a report."""
        return (Path(folder) / REPORT_FILE).is_file()

    @classmethod
    def load(cls, folder: str | Path) -> "ConversionReport":
        return cls.from_dict(json.loads((Path(folder) / REPORT_FILE).read_text(encoding="utf-8")))

    def print(self, console: Console | None = None) -> None:
        """Shows the per-layer table and, where measured, the perplexity at every stage."""
        console = console or Console(stderr=True)
        caption = "distance and half-life in tokens; errors are held out and relative to the teacher's attention"
        table = Table(title="Converted layers", caption=caption, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        for heading in TABLE_HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.layers:
            table.add_row(
                str(row.layer),
                f"{row.mean_attention_distance:.0f}",
                f"{row.timescale_tokens:.0f}",
                *(f"{value:.2f}" for value in (row.beta, row.value_scale, row.output_gate)),
                *(f"{error:.3f}" for error in (row.error_copied, row.error_closed_form, row.error_aligned)),
                f"{row.seconds:.1f}",
            )
        console.print(table)
        known = {stage: value for stage, value in self.perplexity.items() if value is not None}
        if known:
            console.print(perplexity_table(known, self.perplexity_tokens))


def perplexity_table(perplexity: dict[str, float], tokens: int) -> Table:
    """Perplexity of each stage, and as a multiple of the teacher's where the teacher is among them."""
    table = Table(title=f"Perplexity on {tokens:,} held-out tokens", box=SIMPLE_HEAD)
    for heading in ("model", "perplexity", "x teacher"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for stage, value in perplexity.items():
        share = f"{value / perplexity['teacher']:.2f}" if "teacher" in perplexity else ""
        table.add_row(stage.replace("_", " "), f"{value:,.2f}", share)
    return table
