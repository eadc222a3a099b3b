"""eau2 on Ray, and the only file that imports it.

Run as a program it does for others what may hang or abort a process: it looks at a head, and starts raylets.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray.exceptions
from ray._private.node import Node as RayNode
from ray._private.parameter import RayParams
from ray._raylet import GcsClient

_LOOK_SECONDS = 3
_LOOPBACK = "127.0.0.1"
_SPACE = b"eau2"  # of our entries at the head: what each cluster was deployed with, by its name
_METADATA = (b"CLUSTER_METADATA", b"cluster")  # where Ray has its versions


def _look(address: str) -> dict[str, Any]:
    """Return what the head at `address` says of itself. May hang, or end the process."""
    try:
        found: dict[str, Any] = json.loads(
            GcsClient(address=address).internal_kv_get(*_METADATA, timeout=_LOOK_SECONDS) or b"{}"
        )
        return found | {"clusters": _clusters(address)}
    except ray.exceptions.AuthenticationError:
        return {"refused": True}


def _clusters(address: str) -> dict[str, dict[str, Any]]:
    """Return what each cluster of eau2 was deployed with."""
    head = GcsClient(address=address)
    names = head.internal_kv_keys(b"", _SPACE, timeout=_LOOK_SECONDS)
    values = [(name.decode(), head.internal_kv_get(name, _SPACE, timeout=_LOOK_SECONDS)) for name in names]
    return {name: json.loads(value) for name, value in values if value}


def _start_raylets(address: str, raylets: list[dict[str, Any]]) -> str:
    """Start a raylet for each of `raylets`, options of Ray's, and before the first the head unless there is its
    `address`. Return that."""
    if not address:
        address = _start_raylet("", raylets.pop(0))
    with ThreadPoolExecutor(max(1, len(raylets))) as together:  # each waits for seconds
        list(together.map(functools.partial(_start_raylet, address), raylets))
    return address


def _start_raylet(address: str, raylet: dict[str, Any]) -> str:
    """On the loopback interface. Not by `ray start`: of 127.0.0.1 it makes an address that the network sees, and it
    listens on all interfaces then."""
    options = RayParams(
        node_ip_address=_LOOPBACK,
        gcs_address=address or None,
        gcs_server_port=None if address else 0,
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=0,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        num_gpus=0,
        **raylet,
    )
    found: str = RayNode(options, head=not address, shutdown_at_exit=False, spawn_reaper=False).gcs_address
    return found


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    logging.getLogger("ray").setLevel(logging.ERROR)
    print(_start_raylets(**given) if "raylets" in given else json.dumps(_look(**given)))
