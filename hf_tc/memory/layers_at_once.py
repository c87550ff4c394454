# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""How many layers a CPU fits at once: by its threads, and by the memory that is free."""

from pathlib import Path

import psutil
import torch

from hf_tc.memory.estimate import EXPECTED_WITHIN

# Layers are captured one after the other, in a fifth to a twentieth of the time of their fit: more would wait for it.
MOST_AT_ONCE = 8
OWN_LIMITS = Path("/sys/fs/cgroup")  # where Linux shows a process in a container what that may take


def layers_at_once(layers: int, bytes_of_one: int, free: int) -> int:
    """Of so many layers, at least one whether or not it fits.

    Every one has a thread of torch's at least, so that one thread (`torch.set_num_threads(1)`, OMP_NUM_THREADS=1) is
    one layer at a time.

    Args:
        bytes_of_one: what is captured of one, and the work on it, as estimated.
        free: bytes free for all of them.
    """
    fit = int(free / (EXPECTED_WITHIN * bytes_of_one))
    return max(1, min(layers, torch.get_num_threads(), MOST_AT_ONCE, fit))


def free_host_bytes() -> int:
    """Bytes of host memory that this process can still have: what is available, or what its container has left."""
    available, limit = psutil.virtual_memory().available, OWN_LIMITS / "memory.max"
    if not limit.exists() or limit.read_text().strip() == "max":
        return available
    files = dict(line.split() for line in (OWN_LIMITS / "memory.stat").read_text().splitlines())
    used = int((OWN_LIMITS / "memory.current").read_text()) - int(files["inactive_file"])  # which make room
    return min(available, int(limit.read_text()) - used)
