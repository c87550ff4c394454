# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The ranking of a selection as a plot."""

import textwrap

from matplotlib.axes import Axes

from hf_tc.report.plot_style import MANY_LAYERS
from hf_tc.selection import LayerSelection

RETAINED, CONVERTED = "#d55e00", "#56b4e9"


def plot_selection(axes: Axes, selection: LayerSelection) -> None:
    """Draws the score of each layer, the most worth retaining at the left, retained ones in another colour.

    A selection without a ranking (uniform, a list) shows which layers are retained and no scores.
    """
    kept = set(selection.retained_layers)
    axes.set_title(f"Retained layers by {selection.policy}")
    if not selection.ranking:
        axes.text(0.5, 0.5, ", ".join(map(str, selection.retained_layers)) or "none", ha="center", va="center")
        axes.set_axis_off()
        return
    places = range(len(selection.ranking))
    heights = [score or 0.0 for score in selection.scores]
    for label, color, which in (("retained", RETAINED, True), ("converted", CONVERTED, False)):
        chosen = [place for place in places if (selection.ranking[place] in kept) == which]
        axes.bar(chosen, [heights[place] for place in chosen], color=color, label=label)
    for place, score in zip(places, selection.scores, strict=True):
        if score is None:
            axes.text(place, 0.0, "not finite", rotation=90, ha="center", va="bottom", fontsize=7)
    many = len(selection.ranking) > MANY_LAYERS
    names = [str(layer) for layer in selection.ranking]
    axes.set_xticks(list(places), names, fontsize=6 if many else None, rotation=90 if many else 0)
    axes.set(xlabel="layer, the most worth retaining first", ylabel=textwrap.fill(selection.score_meaning, 40))
    axes.legend(frameon=False)
