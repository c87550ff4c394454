# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many layers a CPU fits at once: by its threads, and by the memory that is free."""

import torch

from hf_tc.memory.estimate import EXPECTED_WITHIN

# Layers are captured one after the other, in a fifth to a twentieth of the time of their fit: more would wait for it.
MOST_AT_ONCE = 8


def layers_at_once(layers: int, bytes_of_one: int, free: int) -> int:
    """Of so many layers, at least one whether or not it fits.

    Every one has as many of torch's threads as the others, at least one, so that one thread
    (`torch.set_num_threads(1)`, OMP_NUM_THREADS=1) is one layer at a time.

    Args:
        bytes_of_one: what is captured of one, and the work on it, as estimated.
        free: bytes free for all of them.
    """
    fit = int(free / (EXPECTED_WITHIN * bytes_of_one))
    threads = torch.get_num_threads()
    of_each = -(-threads // MOST_AT_ONCE)  # with as few as possible left over
    return max(1, min(layers, threads // of_each, fit))
