"""Clusters on this machine for as long as something is measured, and stores on them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import ray

import eau2
from benchmarks.measure import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_SECONDS_MAX = 120


@contextlib.contextmanager
def cluster(nodes: int, *, replicas: int = 2) -> Iterator[eau2.Store]:
    """A store on a cluster of `nodes` that nobody else uses; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="cluster") as folder:
        name, before = f"bench-{os.getpid()}", os.environ.get("EAU2_HOME")
        os.environ["EAU2_HOME"] = folder
        try:
            _command("up", "--name", name, "--nodes", nodes, "--replicas", min(nodes, replicas))
            with eau2.open(f"ray:{name}") as store:
                yield store
        finally:
            ray.shutdown()  # or it would wait, when this process ends, for a cluster that is gone
            _command("down", "--name", name)
            if before is None:
                del os.environ["EAU2_HOME"]
            else:
                os.environ["EAU2_HOME"] = before


@contextlib.contextmanager
def idle_actor() -> Iterator[None]:
    """Have an actor that does nothing on the cluster that this process is connected to: what Ray itself takes."""

    class Bare:
        async def ready(self) -> bool:  # as those of eau2, it has an event loop
            return True

    actor = ray.remote(Bare).options(num_cpus=0).remote()
    ray.get(actor.ready.remote(), timeout=COMMAND_SECONDS_MAX)
    yield
    ray.kill(actor)


def _command(*words: object) -> None:
    command = [os.path.join(os.path.dirname(sys.executable), "eau2"), *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=COMMAND_SECONDS_MAX)
