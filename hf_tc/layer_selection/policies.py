# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The policies by which a share becomes layers, and what of a choice can be refused at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hf_tc.config import LAYER_POLICIES
from hf_tc.layer_selection import bypass, greedy, kl
from hf_tc.layer_selection.probe import Probe
from hf_tc.layer_selection.selection import LayerSelection
from hf_tc.layer_selection.uniform import retained_count

SELECTION_TOKENS = 16_384  # tokens on which layers are compared


class Policy(NamedTuple):
    """How layers are compared.

    `rank(probe, count)` gives all layers with their scores, the most worth retaining first; `calibrates` says whether
    it asks the probe for hybrids.
    """

    rank: Callable[[Probe, int], list[tuple[int, float]]]
    score_meaning: str
    calibrates: bool


MEASURING_POLICIES = {
    "bypass": Policy(bypass.rank, bypass.SCORE, calibrates=False),
    "greedy": Policy(greedy.rank, greedy.SCORE, calibrates=True),
    "kl": Policy(kl.rank, kl.SCORE, calibrates=True),
}


def check_policy(retained_layers: float | Sequence[int] | LayerSelection, policy: str | None) -> None:
    """Raises `ValueError` for an unknown policy, for one beside a list of layers, and for a share outside [0, 1]."""
    if policy is not None and policy not in LAYER_POLICIES:
        raise ValueError(f"layer_policy is {policy!r}; it must be one of {', '.join(LAYER_POLICIES)}.")
    if isinstance(retained_layers, str):
        raise ValueError(
            f"retained_layers is {retained_layers!r}; give a share or a list, and a policy as layer_policy."
        )
    if isinstance(retained_layers, int | float):
        retained_count(float(retained_layers), 1)
    elif policy is not None:
        raise ValueError(
            f"layer_policy is {policy!r} and retained_layers names the layers already. Give a share, or leave "
            "layer_policy out."
        )


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
