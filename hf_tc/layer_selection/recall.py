# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `recall`: `kl`, and beside it KL where only looking back helps.

    score = KL on text + WEIGHT * KL on second copies of passages of it        (nats per token, one layer converted)

Plain text asks a model so seldom for what stands further back that its mean does not show which layers find it there;
on the second copy of a passage every token can be had that way.
"""

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked, by_score

WEIGHT = 0.25  # measured at 0.25 to 4, see tests/benchmarks/README.md
SCORE = f"KL (nats) with the layer alone converted, on text and {WEIGHT:g} times that on second copies of passages"


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers with their scores, the one that costs most first."""
    return by_score({layer: _cost_of(probe, layer) for layer in probe.layers})


def _cost_of(probe: Probe, layer: int) -> dict[str, float]:
    return {"text": probe.kl_of([layer]), "second copies": WEIGHT * probe.recall_kl_of([layer])}
