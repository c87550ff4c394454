# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `greedy`: choose one layer, measure all others again, choose the next.

The paper's GA-S2 (arXiv 2606.16429) ranks layers once, each probed alone with its calibrated swap. Layers make up for
one another, so here the hybrid is measured anew after each choice.
"""

from collections.abc import Callable, Iterable

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked

SCORE = "KL (nats) of the hybrid in which the layer and all below it here are converted"
Score = Callable[[Iterable[int]], float]  # converted layers -> how bad the hybrid is


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers with their scores, the most worth retaining first; see `convert_greedily`."""
    return [Ranked(layer, {"KL": score}) for layer, score in convert_greedily(probe.kl_of, probe.layers, count)]


def convert_greedily(score: Score, layers: Iterable[int], count: int) -> list[tuple[int, float]]:
    """Starts with all retained and converts, each time, the layer that costs least, until `count` are left.

    Returns:
        All layers, the most worth retaining first, each with the score of the hybrid in which it is converted and all
        after it; of those retained, the score of converting it next.
    """
    retained = sorted(layers)
    ranking: list[tuple[int, float]] = []
    while True:
        converted = [layer for layer, _ in ranking]
        scores = {layer: score([*converted, layer]) for layer in retained}
        order = sorted(retained, key=lambda layer: -scores[layer])
        if len(retained) <= max(count, 1):
            return [(layer, scores[layer]) for layer in order] + ranking
        ranking.insert(0, (order[-1], scores[order[-1]]))
        retained.remove(order[-1])
