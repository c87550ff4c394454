# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `kl`: how far is the teacher from itself with one layer converted?

KL(teacher || hybrid) on calibration text, with the calibrated layer in place. `restore` measures from the other end.
"""

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked, by_score

SCORE = "KL (nats) of the hybrid in which the layer alone is converted"


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers with their scores, the one that costs most first."""
    return by_score({layer: {"KL": probe.kl_of([layer])} for layer in probe.layers})
