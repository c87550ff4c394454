# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `recall`: `kl`, and beside it KL where only looking back helps.

    score = KL on text + WEIGHT * KL on second copies of passages of it        (nats per token, one layer converted)

Plain text asks a model so seldom for what stands further back that its mean does not show which layers find it there;
on the second copy of a passage every token can be had that way.
"""

from collections.abc import Callable

from hf_tc.layer_selection.probe import Probe

WEIGHT = 0.25  # measured at 0.25 to 4, see tests/benchmarks/README.md
SCORE = f"KL (nats) with the layer alone converted, on text and {WEIGHT:g} times that on second copies of passages"
COMPONENTS: dict[str, Callable[[Probe, int], float]] = {
    "text": lambda probe, layer: probe.kl_of([layer]),
    "second copies": lambda probe, layer: WEIGHT * probe.recall_kl_of([layer]),
}


def rank(probe: Probe, count: int) -> list[tuple[int, float]]:
    """All layers with their scores, the one that costs most first."""
    scores = {layer: sum(measure(probe, layer) for measure in COMPONENTS.values()) for layer in probe.layers}
    return sorted(scores.items(), key=lambda item: -item[1])
