# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Policy `uniform`: layers evenly apart. It measures nothing."""

from hf_tc.config import check_share


def retained_count(share: float, num_layers: int) -> int:
    """Layers that a share in [0, 1] retains, rounded to the nearest.

    Raises:
        ValueError: a share outside [0, 1].
    """
    check_share(share)
    return round(share * num_layers)


def uniform(share: float, num_layers: int) -> tuple[int, ...]:
    """Evenly spread layers, the first among them: 0.25 of 12 gives (0, 4, 8). The paper's `uniform`."""
    count = retained_count(share, num_layers)
    return tuple(i * num_layers // count for i in range(count))
