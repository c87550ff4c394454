# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `bypass`: how much worse is the teacher without a layer's attention?

The paper's AR, attention removal (arXiv 2606.16429). It needs no calibration, and so knows nothing of how well a
recurrent layer would do in the place of the attention.
"""

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked, by_score

SCORE = "perplexity of the teacher without the layer's attention"


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers with their scores, the one most missed first."""
    return by_score({layer: {"perplexity": probe.perplexity_without(layer)} for layer in probe.layers})
