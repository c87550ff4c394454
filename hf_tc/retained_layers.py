# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which layers keep softmax attention."""

from collections.abc import Sequence


def retained_count(share: float, num_layers: int) -> int:
    """Layers that a share in [0, 1] retains, rounded to the nearest.

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(
            f"retained_layers is {share}; a share must lie in [0, 1]. Give a list, such as [0, 4, 8], for indices."
        )
    return round(share * num_layers)


def uniform(share: float, num_layers: int) -> tuple[int, ...]:
    """Evenly spread layers, the first among them: 0.25 of 12 gives (0, 4, 8). The paper's `uniform`."""
    count = retained_count(share, num_layers)
    return tuple(i * num_layers // count for i in range(count))


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


def choose_retained_layers(retained_layers: float | Sequence[int], num_layers: int) -> tuple[int, ...]:
    """The layers to retain, from a share of all layers or from a list of indices."""
    if isinstance(retained_layers, int | float):
        return uniform(float(retained_layers), num_layers)
    return checked_indices(list(retained_layers), num_layers)
