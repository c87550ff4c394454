# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The other direction of `hf_tc.layer_selection.greedy`, for comparison."""

from collections.abc import Iterable

from hf_tc.layer_selection.greedy import Score


def retain_greedily(score: Score, layers: Iterable[int], count: int) -> list[tuple[int, float]]:
    """Starts with all converted and gives back, each time, the layer that helps most.

    Returns:
        All layers, the most worth retaining first, each with the score of the hybrid that retains it and those before
        it. After `count` layers, without measuring again: the score of retaining it in place of the last.
    """
    converted = sorted(layers)
    ranking: list[tuple[int, float]] = []
    while converted:
        scores = {layer: score([other for other in converted if other != layer]) for layer in converted}
        order = sorted(converted, key=lambda layer: scores[layer])
        if len(ranking) >= count - 1:
            return ranking + [(layer, scores[layer]) for layer in order]
        ranking.append((order[0], scores[order[0]]))
        converted.remove(order[0])
    return ranking
