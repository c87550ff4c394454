# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `recall`: `restore`, and beside KL on text KL where only looking back helps.

    score of a layer = what KL on text + KL on second copies of passages of it falls by when it is restored

Plain text asks a model so seldom for what stands further back that its mean does not show which layers find it there;
on the second copy of a passage every token can be had that way. With all layers converted KL on second copies is about
ten times that on text, so they decide.
"""

from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked
from hf_tc.layer_selection.restore import FELL, restored_in_turn

SCORE = f"by how much KL (nats, on text and on second copies of passages) {FELL}"


def rank(probe: Probe, count: int) -> list[Ranked]:
    """All layers, those restored first in their order, with both gains of each when it was last measured."""
    return restored_in_turn(
        probe,
        count,
        lambda converted: {"text": probe.kl_of(converted), "second copies": probe.recall_kl_of(converted)},
    )
