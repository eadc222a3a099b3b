"""What this process may use of the machine: cores and memory, within its container."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """The number of cores this process may run on."""
    return max(1, len(os.sched_getaffinity(0)))


def memory_of_machine() -> int:
    """The bytes of memory of the machine, or of the container when that has less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, container_memory_bytes() or machine)


def container_memory_bytes() -> int | None:
    """The bytes that this process's control group may use, the least of it and its parents; None without a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else ("/sys/fs/cgroup", "memory.max")
        )
        place = Path(root + group)
        for directory in (place, *place.parents):
            if not str(directory).startswith(root):
                break
            limits.append(_bytes_in(directory / name))
    known = [limit for limit in limits if limit is not None and limit < 1 << 60]  # version 1 says "none" as 2**63
    return min(known, default=None)


def _bytes_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there (a container sees its own group as the root), or "max"
        return None
