# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A conversion in one picture: how far heads look and how long they remember, what they write, what was lost where."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_tc.report import ConversionReport

PLOT_FILE = "conversion_report.png"
STAGES = {"copied": "tab:gray", "closed_form": "tab:blue", "aligned": "tab:green"}


def save_conversion_plot(report: ConversionReport, folder: str | Path) -> None:
    """Writes the picture beside the student; a report without layers has none."""
    if report.layers:
        conversion_figure(report).savefig(Path(folder) / PLOT_FILE, dpi=110, metadata={"Software": None})


def conversion_figure(report: ConversionReport) -> Figure:
    """Four panels: half-life against attention distance, write gates, errors by layer, perplexity by stage."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    panels = figure.subplots(2, 2)
    _half_lives(panels[0, 0], report)
    _write_gates(panels[0, 1], report)
    _errors(panels[1, 0], report)
    _perplexities(panels[1, 1], report)
    return figure


def _half_lives(axes: Axes, report: ConversionReport) -> None:
    for row in report.layers:
        axes.scatter(row.head_distances, row.head_half_lives, s=22, label=f"layer {row.layer}", alpha=0.8)
    seen = [value for row in report.layers for value in (*row.head_distances, *row.head_half_lives)]
    limits = (min(seen, default=1) / 1.5, max(seen, default=1) * 1.5)
    axes.plot(limits, limits, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    axes.set(xlabel="mean attention distance (tokens)", ylabel="half-life (tokens)", title="Memory of each head")
    if len(report.layers) <= 12:
        axes.legend(fontsize=7, ncols=2)


def _write_gates(axes: Axes, report: ConversionReport) -> None:
    betas = [beta for row in report.layers for beta in row.head_betas]
    axes.hist(betas, bins=[0.05 * edge for edge in range(21)], color="tab:blue")
    axes.set(xlabel="write gate beta", ylabel="heads", title="How strongly heads write", xlim=(0, 1))


def _errors(axes: Axes, report: ConversionReport) -> None:
    places = range(len(report.layers))
    for offset, (stage, color) in enumerate(STAGES.items()):
        errors = [getattr(row, f"error_{stage}") for row in report.layers]
        axes.bar([place + 0.27 * (offset - 1) for place in places], errors, 0.27, color=color, label=_words(stage))
    axes.set_xticks(list(places), [str(row.layer) for row in report.layers])
    axes.set(xlabel="layer", ylabel="relative error, held out", title="Error of each layer")
    axes.margins(y=0.2)
    axes.legend(fontsize=8, ncols=3, loc="upper center")


def _perplexities(axes: Axes, report: ConversionReport) -> None:
    known: dict[str, Any] = {stage: value for stage, value in report.perplexity.items() if value is not None}
    colors = [STAGES.get(stage, "black") for stage in known]
    bars = axes.bar([_words(stage) for stage in known], list(known.values()), color=colors)
    axes.bar_label(bars, [f"{value:,.4g}" for value in known.values()], fontsize=9)
    axes.set(yscale="log", ylabel="perplexity", title=f"Perplexity on {report.perplexity_tokens:,} tokens")
    axes.margins(y=0.15)


def _words(stage: str) -> str:
    return stage.replace("_", " ")
