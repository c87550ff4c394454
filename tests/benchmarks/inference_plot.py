# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Time and memory of prefill and decoding over the length, teacher beside student: the plot of `inference`."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from hf_tc.report.plot_style import FAINT, STYLE, legend_above, new_figure, plain_log_ticks

COLORS = {"teacher": "#d55e00", "student": "#0072b2"}
# A column of the table, how its line is drawn, and what it is called where an axis has several.
PANELS = {
    "prefill, s": [("prefill s", "o-", "")],
    "one decoded token, ms": [("compiled ms", "o-", ", compiled"), ("eager ms", "s--", ", eager")],
    "most memory, GB": [("peak GB", "o-", ", prefill"), ("decode GB", "s--", ", decoding")],
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the plot of the rows of one model and length each; what was not measured is left out."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(13.0, 4.2)
        for axes, (title, lines) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            _panel(axes, title, lines, rows)
        figure.savefig(path, dpi=150)


def _panel(axes: Axes, title: str, lines: list[tuple[str, str, str]], rows: list[dict[str, Any]]) -> None:
    drawn: list[float] = []
    for model, color in COLORS.items():
        for column, style, name in lines:
            points = sorted((row["length"], row[column]) for row in rows if row["model"] == model and row.get(column))
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, label=f"{model}{name}")
                drawn += [value for _, value in points]
    lengths = sorted({row["length"] for row in rows})
    axes.set(xscale="log", xlabel="tokens", ylabel=title, xticks=lengths)
    axes.set_xticklabels([f"{length // 1024}k" if length >= 1024 else str(length) for length in lengths])
    axes.minorticks_off()
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    if drawn:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis, drawn)
        legend_above(axes, 2, None)
