# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `restore`: all layers converted, the one that helps most gets its attention back, and again.

    score of a layer = what KL falls by, on text and on second copies of passages of it, when it is restored

As arXiv 2512.20569, which goes by KL on text alone. One layer converted in the teacher, as in `kl` and `recall`, leaves
all others to make up for it; here what is left is what the student will have. Gains of later rounds are measured in the
order of the earlier ones, and only until the best of those measured anew is above all others (lazy greedy, Minoux
1978). Some layers do gain from company, and are missed so; students of a selection that measures all of them in every
round were nearer on text and looked up less (tests/benchmarks/README.md).
"""

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked, by_score

SCORE = (
    "by how much KL (nats, on text and on second copies of passages) fell when the layer got its attention back, "
    "beside retained ones above it"
)
Parts = dict[str, float]  # by text


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers, those restored first in their order, with the gain of each when it was last measured."""
    retained: list[Ranked] = []
    now, left = _kl_with(probe, []), {layer: _kl_with(probe, [layer]) for layer in probe.layers}
    gains = {layer: _gain(now, after) for layer, after in left.items()}
    while gains and len(retained) < max(count, 1):
        while (best := by_score(gains)[0].layer) not in left:  # `left` are the KLs of this round
            left[best] = _kl_with(probe, [*(ranked.layer for ranked in retained), best])
            gains[best] = _gain(now, left[best])
        retained.append(Ranked(best, gains.pop(best)))
        now, left = left[best], {}
    return retained + by_score(gains)


def _kl_with(probe: Probe, restored: list[int]) -> Parts:
    converted = [layer for layer in probe.layers if layer not in restored]
    return {"text": probe.kl_of(converted), "second copies": probe.recall_kl_of(converted)}


def _gain(before: Parts, after: Parts) -> Parts:
    """What is infinitely bad before and after is no better."""
    return {name: 0.0 if kl == after[name] else kl - after[name] for name, kl in before.items()}
