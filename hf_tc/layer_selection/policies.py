# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The policies that measure to make layers of a share, and the check of layers that were named."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from hf_tc.layer_selection import bypass, greedy, kl, recall
from hf_tc.layer_selection.probe import Probe

SELECTION_TOKENS = 16_384  # tokens on which layers are compared, in one forward pass


class Policy(NamedTuple):
    """How layers are compared.

    `rank(probe, count)` gives all layers with their scores, the most worth retaining first; `calibrates` says whether
    it asks the probe for hybrids; `components` are the parts that a layer's score is the sum of, by name.
    """

    rank: Callable[[Probe, int], list[tuple[int, float]]]
    score_meaning: str
    calibrates: bool
    components: Mapping[str, Callable[[Probe, int], float]] = MappingProxyType({})


MEASURING_POLICIES = {
    "bypass": Policy(bypass.rank, bypass.SCORE, calibrates=False),
    "greedy": Policy(greedy.rank, greedy.SCORE, calibrates=True),
    "kl": Policy(kl.rank, kl.SCORE, calibrates=True),
    "recall": Policy(recall.rank, recall.SCORE, calibrates=True, components=recall.COMPONENTS),
}


def checked_indices(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """A given choice of layers, ascending.

    Raises:
        ValueError: an index out of range, or twice in the list.
    """
    for index in layers:
        if not 0 <= index < num_layers:
            raise ValueError(
                f"retained_layers contains {index}; the teacher has {num_layers} layers (0-{num_layers - 1})."
            )
    repeated = sorted({index for index in layers if list(layers).count(index) > 1})
    if repeated:
        raise ValueError(f"retained_layers contains {repeated} more than once; give each layer once.")
    return tuple(sorted(layers))
