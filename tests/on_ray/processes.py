"""Which processes of the system are the nodes and the coordinator of a cluster on Ray."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def title(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def children(pid):
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def node_process(machines, machine):
    """The process that has the node of `machine`; None when there is none now."""
    raylet = machines.raylet(machine)
    found = children(raylet) if raylet else []
    return next((pid for pid in found if title(pid).startswith("ray::NodeProcess")), None)


def coordinator_process(machines):
    return next((pid for pid in machines.processes() if title(pid).startswith("ray::CoordinatorProcess")), None)
