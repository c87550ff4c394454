# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Host memory that this process can still have: containers and jobs of a cluster are limited to less than the machine.

Linux keeps such limits as control groups, one below the other, in one of two layouts of files (see its cgroups(7)).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class Layout(NamedTuple):
    """Names of a group's files: what it may have, what it has, and the line of its `memory.stat` that says how much of
    that makes room when asked."""

    limit: str
    used: str
    reclaimable: str


UNIFIED = Layout("memory.max", "memory.current", "inactive_file")
SPLIT = Layout("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_host_bytes() -> int:
    """What is available on the machine, or what the tightest group has left; never negative."""
    left = [_left(folder, layout) for folder, layout in _groups()]
    return max(0, min([psutil.virtual_memory().available, *(found for found in left if found is not None)]))


def _groups() -> Iterator[tuple[Path, Layout]]:
    """The folders of this process's groups and of those above them. In a container, which may be shown none but its own
    as the root, not all exist."""
    if not OWN_GROUPS.exists():
        return
    for line in OWN_GROUPS.read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, layout = (GROUPS / "memory", SPLIT) if controllers else (GROUPS, UNIFIED)
        group = Path(own.lstrip("/"))
        for folder in (group, *group.parents):
            yield root / folder, layout


def _left(folder: Path, layout: Layout) -> int | None:
    """Bytes that a group has left; None without a limit."""
    limit = folder / layout.limit
    if not limit.exists() or limit.read_text().strip() == "max":
        return None
    lines = (folder / "memory.stat").read_text().splitlines()
    reclaimable = dict(line.split() for line in lines).get(layout.reclaimable, 0)
    return int(limit.read_text()) - int((folder / layout.used).read_text()) + int(reclaimable)
