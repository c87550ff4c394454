# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How the pictures of a report look: colours, sizes, ticks and legends.

Colours are those of Okabe and Ito and of viridis: they differ for all eyes, and in lightness.
"""

import io
import math
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

STAGE_COLORS = ("#8c8c8c", "#56b4e9", "#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#009e73")
INK, FAINT = "#333333", "#d9d9d9"
STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.labelsize": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 9.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
MANY_LAYERS = 24


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def png_of(figure: Figure) -> bytes:
    """The picture as a file has it, the same wherever the same library draws it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def width_for(layers: int) -> float:
    return min(13.0, max(6.4, 2.0 + 0.36 * layers))


def stage_color(number: int) -> str:
    return STAGE_COLORS[number % len(STAGE_COLORS)]


def layer_axis(axes: Axes, layers: int) -> None:
    step = 1 if layers <= MANY_LAYERS else 2 if layers <= 2 * MANY_LAYERS else 4 * math.ceil(layers / 128)
    axes.set_xticks(range(0, layers, step))
    axes.set(xlabel="layer", xlim=(-0.7, layers - 0.3))


def plain_log_ticks(axis: Axis, values: Iterable[float]) -> None:
    """Ticks 1, 2, 5, 10 ... on a logarithmic axis as plain numbers; evenly spaced ones where that would be too few."""
    values = list(values)
    decades = math.log10(max(values) / min(values)) if values and min(values) > 0 else 0.0
    if decades < 0.6:
        axis.set_major_locator(MaxNLocator(5))
    else:
        subs = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3.5 else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def named_line(axes: Axes, value: float, name: str, offset: tuple[float, float], align: str) -> None:
    """An upright line at a value, with a name above the axes, `offset` points from the line's upper end."""
    axes.axvline(value, color=INK, linewidth=1.2)
    axes.annotate(
        name,
        (value, 1),
        xycoords=("data", "axes fraction"),
        xytext=offset,
        textcoords="offset points",
        ha=align,
        va="bottom",
    )


def legend_above(axes: Axes, entries: int, title: str | None) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=min(entries, 6),
        frameon=False,
        title=title,
        alignment="left",
        title_fontsize=8.5,
        borderaxespad=0.2,
        handletextpad=0.4,
        columnspacing=1.4,
    )
