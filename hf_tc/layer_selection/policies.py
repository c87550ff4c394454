# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The policies that measure to make layers of a share, and the check of layers that were named."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hf_tc.layer_selection import bypass, greedy, kl, recall, restore
from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.ranking import Ranked

SELECTION_TOKENS = 8192  # tokens on which layers are compared, in one forward pass


class Policy(NamedTuple):
    """How layers are compared.

    `rank(probe, count)` gives all layers, the most worth retaining first; `calibrates` says whether it asks the probe
    for hybrids; `forwards(layers, count)` are the forward passes it takes.
    """

    rank: Callable[[Probe, int], list[Ranked]]
    score_meaning: str
    calibrates: bool
    forwards: Callable[[int, int], int]


MEASURING_POLICIES = {
    "bypass": Policy(bypass.rank, bypass.SCORE, False, lambda layers, count: layers),
    "greedy": Policy(greedy.rank, greedy.SCORE, True, lambda layers, count: sum(range(max(count, 1), layers + 1))),
    "kl": Policy(kl.rank, kl.SCORE, True, lambda layers, count: layers),
    # About: two or three layers are measured again in each round, `recall`'s on two texts.
    "restore": Policy(restore.rank, restore.SCORE, True, lambda layers, count: layers + 2 * count),
    "recall": Policy(recall.rank, recall.SCORE, True, lambda layers, count: 2 * (layers + 2 * count)),
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
