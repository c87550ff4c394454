# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `kl`: how far is the teacher from itself with one layer converted?

As arXiv 2512.20569: KL(teacher || hybrid) on generic text, here with the calibrated layer in place.
"""

from hf_tc.layer_selection.probe import Probe

SCORE = "KL (nats) of the hybrid in which the layer alone is converted"


def rank(probe: Probe, count: int) -> list[tuple[int, float]]:
    """All layers with their scores, the one that costs most first."""
    scores = {layer: probe.kl_of([layer]) for layer in probe.layers}
    return sorted(scores.items(), key=lambda item: -item[1])
