# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""What was trained after a conversion, as tables and as a picture of the last run's curve."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from hf_tc.report.plot_style import FAINT, legend_above, new_figure, plain_log_ticks, short, stage_color

# Facts of a run, see `hf_tc.distillation.training_record.run_record`, by what they are called.
FACTS = {
    "tokens": "tokens",
    "steps": "steps",
    "data": "data",
    "teacher_top_k": "likeliest tokens known of the teacher",
    "recipe": "recipe",
    "learning_rate": "learning rate",
    "gate_learning_rate": "learning rate of new gates",
    "lr_scheduler_type": "schedule",
    "trains": "what trains",
    "divergence": "loss",
    "temperature": "temperature",
    "ce_weight": "weight of cross-entropy",
    "layer_weight": "weight of the outputs of layers",
    "distribution_weight": "weight of KL and cross-entropy",
    "tokens_per_step": "tokens of a step",
    "sequence_length": "tokens of a sequence",
    "curriculum": "stages, tokens:length",
    "repeated_passages": "share of sequences with passages that come twice",
    "hardware": "hardware",
    "tokens_per_second": "tokens a second",
}
CURVE = {
    "tokens": "tokens",
    "perplexity": "perplexity",
    "times_teacher": "times the teacher's",
    "kl": "KL, nats",
    "top1_agreement": "top-1 agreement",
    "lookup_kept": "look-up kept",
}


def facts_table(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row a fact and a column a run, with a heading; no rows where nothing was trained."""
    numbers = [f"run {number}" for number in range(1, len(runs) + 1)] if len(runs) > 1 else [""]
    rows = [[title, *(_fact(run.get(name)) for run in runs)] for name, title in FACTS.items()]
    return [["", *numbers], *(row for row in rows if any(row[1:]))] if runs else []


def curve_table(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row a point of the last run's curve, with a heading; no rows where there is none."""
    points = _curve(runs)
    known = {name: title for name, title in CURVE.items() if any(name in point for point in points)}
    rows = [[_figure(name, point.get(name)) for name in known] for point in points]
    return [list(known.values()), *rows] if points else []


def curve_figure(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """KL and how far perplexity is above the teacher's over tokens, both logarithmic; None where there is no curve."""
    points = [point for point in _curve(runs) if point["tokens"] > 0]
    if len(points) < 2:
        return None
    start = next((point for point in _curve(runs) if point["tokens"] == 0), None)
    figure = new_figure(7.5, 3.4)
    for place, (name, title) in enumerate(
        (("kl", "KL to the teacher, nats"), ("above", "perplexity above the teacher's, %"))
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        _plot(axes, points, start, name, place)
        axes.set(xlabel="tokens (both axes logarithmic)", ylabel=title)
    return figure


def _plot(axes: Axes, points: list[dict[str, Any]], start: dict[str, Any] | None, name: str, place: int) -> None:
    known = [(point["tokens"], point[name]) for point in points if point[name] > 0]
    if not known:  # better than the teacher throughout
        axes.text(0.5, 0.5, "none: at or below the teacher's", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
        return
    axes.plot(*zip(*known, strict=True), "o-", color=stage_color(place + 2), markersize=5, label="student")
    values = [value for _, value in known]
    if start is not None and start[name] > 0:
        axes.axhline(start[name], color=stage_color(0), linewidth=1.2, linestyle=(0, (4, 3)), label="before")
        values.append(start[name])
    axes.annotate(short(known[-1][1]), known[-1], xytext=(4, -14), textcoords="offset points", ha="right")
    axes.set(xscale="log", yscale="log", ylim=(min(values) / 1.3, max(values) * 1.3))
    plain_log_ticks(axes.yaxis, values)
    measured_at = [tokens for tokens, _ in known]
    axes.xaxis.set_major_locator(FixedLocator(measured_at[::-2]))
    axes.xaxis.set_major_formatter(EngFormatter(places=1, sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    legend_above(axes, 2, None)


def _curve(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points of the last run, with perplexity against the teacher's."""
    points = runs[-1]["curve"] if runs else []
    shares = [point["perplexity"] / point["teacher_perplexity"] for point in points]
    together = zip(points, shares, strict=True)
    return [{**point, "times_teacher": share, "above": 100 * (share - 1)} for point, share in together]


def _fact(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figure(name: str, value: Any) -> str:
    if value is None or not math.isfinite(value):
        return ""
    if name == "tokens":
        return f"{value:,}"
    return f"{value:,.2f}" if name == "perplexity" else f"{value:.0%}" if name == "lookup_kept" else f"{value:.3f}"
