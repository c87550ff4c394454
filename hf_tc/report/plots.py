# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""A conversion in pictures: what was lost where, how far heads look, how long they remember, how strongly they write.

Stages are drawn in the order in which the report has them, however many there are.
"""

import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_tc.report.distillation_section import curve_figure
from hf_tc.report.plot_style import (
    FAINT,
    INK,
    STAGE_COLORS,
    STYLE,
    layer_axis,
    legend_above,
    named_line,
    new_figure,
    plain_log_ticks,
    png_of,
    short,
    stage_color,
    width_for,
)
from hf_tc.report.records import ERROR, ConversionReport, LayerReport, words
from hf_tc.report.selection_plot import selection_figure

LAST_DRAWN: dict[str, dict[str, bytes]] = {}  # by what the report says: of one report, or of none yet
PICTURES = ("perplexity", "errors", "memory", "write_gates", "selection", "distillation")


def picture_file(name: str) -> str:
    return f"plot_{name}.png"


def save_conversion_plots(report: ConversionReport, folder: str | Path) -> dict[str, str]:
    """Writes the pictures that a report gives rise to into a folder; returns their file names by what they show.

    Pictures of an earlier report that this one has none of are removed.
    """
    pictures, names = _pictures(report), {name: picture_file(name) for name in PICTURES}
    for name, file in names.items():
        if name in pictures:
            (Path(folder) / file).write_bytes(pictures[name])
        else:
            (Path(folder) / file).unlink(missing_ok=True)
    return {name: names[name] for name in pictures}


def _pictures(report: ConversionReport) -> dict[str, bytes]:
    """PNG by name. Those of the last report are kept: drawing takes a second, and trainings save a student often."""
    content = repr(report)
    if content not in LAST_DRAWN:
        pictures = {name: png_of(figure) for name, figure in conversion_figures(report).items()}
        LAST_DRAWN.clear()
        LAST_DRAWN[content] = pictures
    return LAST_DRAWN[content]


def conversion_figures(report: ConversionReport) -> dict[str, Figure]:
    """Figures by name, those of `PICTURES` that there is something for."""
    figures = {}
    with matplotlib.rc_context(STYLE):
        if len(report.known_perplexities) > 1:
            figures["perplexity"] = _perplexity_figure(report)
        if report.layers:
            figures["errors"] = _error_figure(report)
        if any(row.head_distances for row in report.layers):
            figures["memory"] = _memory_figure(report.layers)
        if any(row.head_betas for row in report.layers):
            figures["write_gates"] = _write_gate_figure(report.layers)
        if report.selection is not None and report.selection.ranking:
            figures["selection"] = selection_figure(report.selection)
        if (curve := curve_figure(report.distillations)) is not None:
            figures["distillation"] = curve
    return figures


def _perplexity_figure(report: ConversionReport) -> Figure:
    """One line a stage, as long as the stage is worse than the teacher."""
    known = dict(report.known_perplexities)
    teacher = known.pop("teacher", None)
    figure = new_figure(7.5, 1.3 + 0.42 * len(known))
    axes = figure.subplots()
    start = min(known.values()) if teacher is None else teacher
    places = range(len(known))
    for place, value in enumerate(known.values()):
        color = stage_color(place)
        axes.plot([start, value], [place, place], color=color, linewidth=5, solid_capstyle="butt", alpha=0.5)
        axes.plot(value, place, "o", color=color, markersize=9)
        share = "" if teacher is None else f"  ({short(value / teacher)} ×)"
        axes.annotate(f"{short(value)}{share}", (value, place), xytext=(9, 0), textcoords="offset points", va="center")
    if teacher is not None:
        named_line(axes, teacher, f"teacher {short(teacher)}", (4, 2), "left")
    values = [start, *known.values()]
    span = max(values) / min(values)
    axes.set(
        xscale="log", xlim=(min(values) / span**0.04, max(values) * span**0.28 * 1.02), ylim=(len(known) - 0.5, -0.6)
    )
    plain_log_ticks(axes.xaxis, values)
    axes.set_yticks(list(places), [words(stage) for stage in known])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"perplexity on {report.perplexity_tokens:,} tokens, logarithmic")
    return figure


def _error_figure(report: ConversionReport) -> Figure:
    """A column a layer: its error at every stage, the retained layers in between left blank."""
    stages = report.error_stages
    layer_count = len(report.retained_layers) + len(report.linear_layers)
    figure = new_figure(width_for(layer_count), 3.9)
    axes = figure.subplots()
    for layer in report.retained_layers:
        axes.axvspan(layer - 0.5, layer + 0.5, color="#f2f2f2", linewidth=0, zorder=0)
    errors = {stage: [getattr(row, ERROR + stage) for row in report.layers] for stage in stages}
    places = [row.layer for row in report.layers]
    lowest, highest = np.nanmin(list(errors.values()), axis=0), np.nanmax(list(errors.values()), axis=0)
    axes.vlines(places, lowest, highest, color=FAINT, linewidth=2, zorder=1)
    for number, (stage, values) in enumerate(errors.items()):
        axes.scatter(places, values, s=42, color=stage_color(number), label=words(stage), zorder=2 + number)
    seen = [value for values in errors.values() for value in values if math.isfinite(value) and value > 0]
    axes.set(yscale="log", ylim=(min(seen, default=0.1) / 1.35, max(seen, default=1.0) * 1.35))
    plain_log_ticks(axes.yaxis, seen)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    layer_axis(axes, layer_count)
    axes.set_ylabel("relative error, held out")
    legend_above(axes, len(stages), "grey columns: layers that keep attention" if report.retained_layers else None)
    return figure


def _memory_figure(layers: list[LayerReport]) -> Figure:
    """Half-life against attention distance, a point a head, coloured by depth."""
    figure = new_figure(6.4, 4.8)
    axes = figure.subplots()
    distances, half_lives, depths = (
        np.array(values, dtype=float)
        for values in zip(
            *(
                (d, h, row.layer)
                for row in layers
                for d, h in zip(row.head_distances, row.head_half_lives, strict=True)
            ),
            strict=True,
        )
    )
    distances, half_lives = np.maximum(distances, 0.1), np.maximum(half_lives, 0.1)
    limits = [(values.min() / 1.4, values.max() * 1.4) for values in (distances, half_lives)]
    ends = (max(low for low, _ in limits), min(high for _, high in limits))
    if ends[0] < ends[1]:
        axes.plot(ends, ends, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label="half-life = distance", zorder=1)
        legend_above(axes, 1, None)
    norm = Normalize(min(depths), max(max(depths), min(depths) + 1))
    size = 46 if len(depths) <= 100 else 24 if len(depths) <= 500 else 11
    axes.scatter(
        distances,
        half_lives,
        c=depths,
        norm=norm,
        cmap="viridis",
        s=size,
        alpha=0.85,
        linewidths=0.3,
        edgecolors="white",
        zorder=2,
    )
    axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
    plain_log_ticks(axes.xaxis, distances)
    plain_log_ticks(axes.yaxis, half_lives)
    axes.set(xlabel="how far the teacher's head looks back, mean (tokens)", ylabel="half-life of its memory (tokens)")
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, pad=0.02)
    bar.set_label("layer")
    bar.locator = MaxNLocator(integer=True, nbins=8)
    bar.outline.set_visible(False)
    bar.update_ticks()
    return figure


def _write_gate_figure(layers: list[LayerReport]) -> Figure:
    """How many heads write how strongly, in bins of equal width on a logarithmic axis: finer ones for many values."""
    betas = np.clip([beta for row in layers for beta in row.head_betas], 1e-3, 1.0)
    factor = 2.0 if len(np.unique(betas.round(3))) <= 12 else math.sqrt(2)
    steps = math.ceil(math.log(math.sqrt(2) / betas.min(), factor))
    edges = np.minimum(math.sqrt(2) * factor ** np.arange(-steps, 1.0), 1.0)
    figure = new_figure(6.4, 3.2)
    axes = figure.subplots()
    axes.hist(betas, bins=np.unique(edges).tolist(), color=STAGE_COLORS[2], edgecolor="white", linewidth=1.2)
    median = float(np.median(betas))
    named_line(axes, median, f"median {median:.2g}", (0, 3), "center")
    axes.set(
        xscale="log", xlabel="write gate beta, logarithmic (1: a token overwrites what its key held)", ylabel="heads"
    )
    plain_log_ticks(axes.xaxis, edges)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return figure
