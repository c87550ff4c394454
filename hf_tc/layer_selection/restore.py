# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `restore`: all layers converted, the one that helps most gets its attention back, and again.

    score of a layer = what KL on text falls by when it is restored        (arXiv 2512.20569)

One layer converted in the teacher, as in `kl`, leaves all others to make up for it; here what is left is what the
student will have. Gains of later rounds are measured in the order of the earlier ones, and only until the best of those
measured anew is above all others (lazy greedy, Minoux 1978). Layers that gain from company are missed so.
"""

from collections.abc import Callable

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked, by_score

FELL = "fell when the layer got its attention back, beside retained ones above it"
SCORE = f"by how much KL (nats) {FELL}"
Parts = dict[str, float]  # KLs, or what they fell by, by text


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers, those restored first in their order, with the gain of each when it was last measured."""
    return restored_in_turn(probe, count, lambda converted: {"KL": probe.kl_of(converted)})


def restored_in_turn(probe: Probe, count: int, kls_of: Callable[[list[int]], Parts]) -> list[Ranked]:
    """The same by the sum of what `kls_of` gives of the hybrid with these layers converted."""

    def kls_with(restored: list[int]) -> Parts:
        return kls_of([layer for layer in probe.layers if layer not in restored])

    retained: list[Ranked] = []
    now, left = kls_with([]), {layer: kls_with([layer]) for layer in probe.layers}
    gains = {layer: _gain(now, after) for layer, after in left.items()}
    while gains and len(retained) < max(count, 1):
        while (best := by_score(gains)[0].layer) not in left:  # `left` are the KLs of this round
            left[best] = kls_with([*(ranked.layer for ranked in retained), best])
            gains[best] = _gain(now, left[best])
        retained.append(Ranked(best, gains.pop(best)))
        now, left = left[best], {}
    return retained + by_score(gains)


def _gain(before: Parts, after: Parts) -> Parts:
    """What is infinitely bad before and after is no better."""
    return {name: 0.0 if kl == after[name] else kl - after[name] for name, kl in before.items()}
