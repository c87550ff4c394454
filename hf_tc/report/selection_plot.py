# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The ranking of a selection as a plot: in a conversion's report, and beside the file of `hf-tc select`."""

import textwrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_tc.report.plot_style import MANY_LAYERS, STYLE, new_figure, png_of, width_for
from hf_tc.selection import LayerSelection

RETAINED, CONVERTED = "#d55e00", "#56b4e9"
TITLE_PAD, LEGEND_ROW = 6.0, 18.0  # points


def selection_png(selection: LayerSelection) -> bytes:
    """The picture of a selection with a ranking, as a PNG file."""
    with matplotlib.rc_context(STYLE):
        figure = selection_figure(selection)
    return png_of(figure)


def selection_figure(selection: LayerSelection) -> Figure:
    """The scores of a selection with a ranking, as wide as its layers need."""
    layers = len(selection.ranking)
    figure = new_figure(width_for(layers), 3.6)
    axes = figure.subplots()
    plot_selection(axes, selection)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    if len(selection.components) > 1:  # wider entries, which would lie over the title of a picture of few layers
        axes.set_title(axes.get_title("left"), pad=TITLE_PAD + LEGEND_ROW * len(selection.components))
    if layers > MANY_LAYERS:
        axes.tick_params(axis="x", labelrotation=90, labelsize=min(8.5, 760 / layers))
    return figure


def plot_selection(axes: Axes, selection: LayerSelection) -> None:
    """Draws the score of each layer, the most worth retaining at the left, retained ones in another colour.

    Where a score is a sum, its components stand on one another, the first of them darkest.
    A selection without a ranking (uniform, a list) shows which layers are retained and no scores.
    """
    axes.set_title(f"Retained layers by {selection.policy}")
    if not selection.ranking:
        axes.text(0.5, 0.5, ", ".join(map(str, selection.retained_layers)) or "none", ha="center", va="center")
        axes.set_axis_off()
        return
    _draw_bars(axes, selection)
    for place, score in enumerate(selection.scores):
        if score is None:
            axes.text(place, 0.0, "not finite", rotation=90, ha="center", va="bottom", fontsize=7)
    many = len(selection.ranking) > MANY_LAYERS
    names = [str(layer) for layer in selection.ranking]
    axes.set_xticks(list(range(len(names))), names, fontsize=6 if many else None, rotation=90 if many else 0)
    axes.set(xlabel="layer, the most worth retaining first", ylabel=textwrap.fill(selection.score_meaning, 40))
    axes.legend(frameon=False)


def _draw_bars(axes: Axes, selection: LayerSelection) -> None:
    """A bar for each score, of its components on one another where it has several."""
    known = [score is not None for score in selection.scores]
    for label, color, retained in (("retained", RETAINED, True), ("converted", CONVERTED, False)):
        chosen = [i for i, layer in enumerate(selection.ranking) if (layer in selection.retained_layers) == retained]
        below = [0.0] * len(chosen)
        for number, (part, scores) in enumerate((selection.components or {"": selection.scores}).items()):
            heights = [(scores[i] or 0.0) if known[i] else 0.0 for i in chosen]
            name = f"{label}, {part}" if part else label
            axes.bar(chosen, heights, bottom=below, color=color, alpha=1 / (1 + number), label=name)
            below = [height + start for height, start in zip(heights, below, strict=True)]
