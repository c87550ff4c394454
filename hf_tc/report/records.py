# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion did, as data, as a table and as files beside the student."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn

from hf_tc.evaluation.figures import Evaluation
from hf_tc.report import REPORT_FILE
from hf_tc.report.comparison_tables import print_comparison
from hf_tc.resume.fingerprint import weights_fingerprint
from hf_tc.selection import LayerSelection

LOG_FILE = "calibration_log.csv"
# Token ids of the text that perplexities were measured on. Neither the library nor hf_tc uploads files named like this.
HELD_OUT_FILE = "_held_out_tokens.json"
TABLE_HEADINGS = ("layer", "distance", "half-life", "beta", "value", "gate")
ERROR = "error_"  # before a stage, the name of a layer's error at it
STAGES = ("teacher", "copied", "closed_form", "aligned", "joint")  # in the order in which a conversion reaches them


@dataclass
class LayerReport:
    """One converted layer. Errors are held-out and relative: 0 for the teacher's attention, 1 for a silent layer.

    A field `error_` + stage for a further stage is shown wherever errors are.
    """

    layer: int
    mean_attention_distance: float  # tokens, attention sinks included, mean over heads
    attention_entropy: float  # nats, mean over heads
    timescale_tokens: float  # median half-life over heads
    beta: float  # mean write gate over heads
    value_scale: float  # mean size of o_proj's new weights relative to the teacher's
    output_gate: float  # mean gate value
    error_copied: float
    error_closed_form: float
    error_aligned: float
    seconds: float  # its share, where several layers were fitted at once
    head_distances: list[float] = field(default_factory=list)  # tokens, one a head, as the two below
    head_half_lives: list[float] = field(default_factory=list)
    head_betas: list[float] = field(default_factory=list)


@dataclass
class ConversionReport:
    """The whole conversion.

    Attributes:
        perplexity: by stage, see `STAGES`, on held-out text; whatever stages there are is shown.
        seconds: of the run that ended it; those of a layer are of the run that fitted it.
        stage_seconds: what `seconds` went to, by stage in the order in which they began.
        fingerprints: of the teacher's weights and of the calibration text.
        student_weights: of the student that the figures are of, see `weights_fingerprint`.
        device: what it ran on, in words.
        arguments: those of `from_teacher`, as JSON has them.
        evaluation: what `add_evaluation` recorded.
        distillations: what was trained since, a run each; see `hf_tc.distillation.training_record.run_record`.
        held_out_tokens: blocks of token ids that the perplexities are of, in a file of their own, which stays here.
    """

    teacher: str
    retained_layers: list[int]
    linear_layers: list[int]
    calibration_tokens: int
    alignment_steps: int
    seed: int
    data: str
    versions: dict[str, str]
    joint_steps: int = 0
    layers: list[LayerReport] = field(default_factory=list)
    perplexity: dict[str, float | None] = field(default_factory=dict)
    perplexity_tokens: int = 0
    seconds: float = 0.0
    selection: LayerSelection | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    student_weights: dict[str, str] = field(default_factory=dict)
    device: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    distillations: list[dict[str, Any]] = field(default_factory=list)
    held_out_tokens: list[list[int]] = field(default_factory=list, repr=False)

    def add_evaluation(self, evaluation: Evaluation, student: nn.Module, data: str) -> None:
        """Records what was measured of the student as it is now; it is shown as long as the weights are these.

        Args:
            data: what the text of the perplexity is called.
        """
        weights = weights_fingerprint(student.state_dict().values())
        self.evaluation = {"data": data, "student_weights": weights, "figures": evaluation.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """All but the text, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "held_out_tokens"}

    @property
    def provenance(self) -> dict[str, Any]:
        """What goes into the student's configuration: all that is not per layer, nor about the machine or the call."""
        left_out = {"layers", "seconds", "selection", "device", "arguments", "stage_seconds"}
        left_out |= {"evaluation", "distillations"}
        provenance = {name: value for name, value in self.to_dict().items() if name not in left_out}
        return provenance | ({} if self.selection is None else {"layer_policy": self.selection.policy})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ConversionReport":
        """The report of `to_dict`, without what a later release added to it."""
        data = _fields_of(cls, data)
        data["layers"] = [LayerReport(**_fields_of(LayerReport, row)) for row in data["layers"]]
        if data.get("selection") is not None:
            data["selection"] = LayerSelection.from_dict(data["selection"])
        return cls(**data)

    @property
    def known_perplexities(self) -> dict[str, float]:
        """Perplexity by stage, those that were measured and are finite."""
        return known_by_stage(self.perplexity)

    @property
    def error_stages(self) -> list[str]:
        """The stages at which errors of layers were measured, in their order."""
        names = [item.name for item in fields(LayerReport) if item.name.startswith(ERROR)]
        measured = [name for name in names if any(math.isfinite(getattr(row, name)) for row in self.layers)]
        return [name.removeprefix(ERROR) for name in measured]

    def save(self, folder: str | Path) -> None:
        """Writes the report and its held-out text as JSON, its rows as CSV; what is per head is a JSON list there."""
        folder = Path(folder)
        if self.held_out_tokens:
            (folder / HELD_OUT_FILE).write_text(json.dumps(self.held_out_tokens), encoding="utf-8")
        else:
            (folder / HELD_OUT_FILE).unlink(missing_ok=True)
        (folder / REPORT_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        with (folder / LOG_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [item.name for item in fields(LayerReport)])
            writer.writeheader()
            for row in self.layers:
                writer.writerow({name: json.dumps(x) if isinstance(x, list) else x for name, x in asdict(row).items()})

    @staticmethod
    def exists(folder: str | Path) -> bool:
        """Whether the folder of a student holds a report."""
        return (Path(folder) / REPORT_FILE).is_file()

    @classmethod
    def load(cls, folder: str | Path) -> "ConversionReport":
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is no report, or a damaged one.
        """
        path = Path(folder) / REPORT_FILE
        held_out = path.with_name(HELD_OUT_FILE)
        try:
            report = cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
            report.held_out_tokens = json.loads(held_out.read_text(encoding="utf-8")) if held_out.is_file() else []
            return report
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}: {error}). Remove it, and the student has no report."
            ) from error

    def print(self, console: Console | None = None) -> None:
        """Shows the per-layer table and, where measured, the perplexity at every stage."""
        console = console or Console(stderr=True)
        caption = "distance and half-life in tokens; errors are held out and relative to the teacher's attention"
        table = Table(title="Converted layers", caption=caption, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        stages = self.error_stages
        for heading in (*TABLE_HEADINGS, *(words(stage).split()[0] for stage in stages), "s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.layers:
            table.add_row(
                str(row.layer),
                f"{row.mean_attention_distance:.0f}",
                f"{row.timescale_tokens:.0f}",
                *(f"{value:.2f}" for value in (row.beta, row.value_scale, row.output_gate)),
                *(f"{getattr(row, ERROR + stage):.3f}" for stage in stages),
                f"{row.seconds:.1f}",
            )
        console.print(table)
        if self.known_perplexities:
            console.print(perplexity_table(self.known_perplexities, self.perplexity_tokens))
        if self.evaluation:
            print_comparison({"student": self.evaluation["figures"]}, console)
        if self.stage_seconds:
            console.print(f"Seconds by stage: {seconds_in_words(self.stage_seconds)}", highlight=False)


def _fields_of(kind: Any, data: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def known_by_stage(perplexity: Mapping[str, float | None]) -> dict[str, float]:
    """Perplexities that were measured and are finite, in the order of their stages.

    Not in the order in which they are given: a configuration is saved with its keys sorted.
    """
    known = {stage: value for stage, value in perplexity.items() if value is not None and math.isfinite(value)}
    return dict(sorted(known.items(), key=lambda item: STAGES.index(item[0]) if item[0] in STAGES else len(STAGES)))


def words(stage: str) -> str:
    """A stage's name in words: "closed_form" is closed form."""
    return stage.replace("_", " ")


def seconds_in_words(stage_seconds: Mapping[str, float]) -> str:
    """Seconds by stage in one line: "load 0.4, solve 12.0"."""
    return ", ".join(f"{words(stage)} {seconds:.1f}" for stage, seconds in stage_seconds.items())


def perplexity_table(perplexity: dict[str, float], tokens: int) -> Table:
    """Perplexity of each stage, and as a multiple of the teacher's where the teacher is among them."""
    table = Table(title=f"Perplexity on {tokens:,} held-out tokens", box=SIMPLE_HEAD)
    for heading in ("model", "perplexity", "x teacher"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for stage, value in perplexity.items():
        share = f"{value / perplexity['teacher']:.2f}" if "teacher" in perplexity else ""
        table.add_row(words(stage), f"{value:,.2f}", share)
    return table
