# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `restore`: all layers converted, the one that helps most gets its attention back, and again.

    score of a layer = what KL falls by, on text and on second copies of passages of it, when it is restored

As arXiv 2512.20569, which goes by KL on text alone. One layer converted in the teacher, as in `kl` and `recall`, leaves
all others to make up for it; here what is left is what the student will have. Gains of later rounds are measured in the
order of the earlier ones, and only until the best of those measured anew is above all others (lazy greedy, Minoux
1978): a layer rarely gains from company.
"""

import math

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked, by_score

SCORE = (
    "by how much KL (nats, on text and on second copies of passages) fell when the layer got its attention back, beside "
    "those above it that are retained"
)
Parts = dict[str, float]


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers, those restored first in their order, with the gain of each when it was last measured."""
    retained: list[Ranked] = []
    now = _kl_with(probe, [])
    gains: dict[int, Parts] = {layer: {"": math.inf} for layer in probe.layers}
    while gains and len(retained) < max(count, 1):
        found: dict[int, Parts] = {}
        while (best := by_score(gains)[0].layer) not in found:
            found[best] = _kl_with(probe, [*(ranked.layer for ranked in retained), best])
            gains[best] = {name: _fall(now[name], kl) for name, kl in found[best].items()}
        retained.append(Ranked(best, gains.pop(best)))
        now = found[best]
    return retained + by_score(gains)


def _kl_with(probe: Probe, restored: list[int]) -> Parts:
    converted = [layer for layer in probe.layers if layer not in restored]
    return {"text": probe.kl_of(converted), "second copies": probe.recall_kl_of(converted)}


def _fall(before: float, after: float) -> float:
    """What is infinitely bad before and after is no better."""
    return 0.0 if before == after else before - after
