"""A Ray cluster of three machines, which is started once for all tests in a row that use it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray.exceptions import ActorUnavailableError
from tests.folders import fast_folder
from tests.until import SECONDS_MAX

import eau2
from eau2.errors import ClusterUnavailable
from eau2.remote import launch
from eau2.remote.address import Address
from eau2.remote.coordinator import CoordinatorServer
from eau2.remote.deploying import RayCluster as Connected
from eau2.remote.deployment import Deployment, Placed
from eau2.remote.ray import ON_HEAD, CoordinatorProcess, NodeProcess, RayTransport, actor
from eau2.remote.transport import COORDINATOR

MACHINES = 3


def open_at(home, text):
    """Open the store `text` of the clusters that `home` knows, in any process."""
    os.environ["EAU2_HOME"] = home
    return patiently(lambda: eau2.open(text))


def patiently(ask):
    """Ask, also a head that is taken for one that is frozen, as the machine is busy, or what a test has just killed."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        try:
            return ask()
        except (ClusterUnavailable, ActorUnavailableError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class FreshNode(NodeProcess):
    """A node that begins anew with an empty directory when it is told to: that takes less than a process of its own."""

    async def fresh(self, deployment, directory):
        while self._server is None and not self._refused:  # Ray has just started it anew: it yet begins where it was
            await asyncio.sleep(0.01)
        await self.stop()
        self._server = None
        self._begin(deployment, Placed(ray.get_runtime_context().get_actor_name(), directory))


class FreshCoordinator(CoordinatorProcess):
    """A coordinator that forgets everything when it is told to."""

    node = FreshNode

    async def fresh(self, deployment):
        await self.stop()
        self._server = CoordinatorServer(RayTransport(deployment.name))


class RayCluster:
    """What was started. Clusters of eau2 on it are deployed when they are first asked for, and kept."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.machines = launch.up("tests", machines=MACHINES)[0]
        self.opened: dict[str, int] = {}  # how often, by name

    def opener(self, name: str):
        """Return what opens the cluster `name` in any process. It is empty now."""
        deployment = Deployment(name, f"{self.home}/{name}")
        number = self.opened[name] = self.opened.get(name, 0) + 1
        with self.connected(name) as there:
            if number == 1:
                actor(FreshCoordinator, COORDINATOR, name, **ON_HEAD).remote(deployment)
            else:
                self._empty(deployment, f"{self.home}/{name}-{number}")
            there.deploy(deployment)
        return functools.partial(open_at, self.home, f"ray:{self.machines.address}/{name}")

    def deployed(self, name: str):
        """Return what opens the cluster `name`, which is as it was left. Its processes are those that users have."""
        with self.connected(name) as there:
            there.deploy(Deployment(name, f"{self.home}/{name}"))
        return functools.partial(open_at, self.home, f"ray:{self.machines.address}/{name}")

    def connected(self, name: str) -> Connected:
        address = Address(self.machines.address, name, self.machines.environment())
        return patiently(lambda: Connected(address))

    def _empty(self, deployment: Deployment, folder: str) -> None:
        def ask(name, *arguments):
            process = ray.get_actor(name, namespace=f"eau2:{deployment.name}")
            patiently(lambda: ray.get(process.fresh.remote(deployment, *arguments), timeout=SECONDS_MAX))

        ask(COORDINATOR)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: ask(name, f"{folder}/{name}"), self.machines.machines))


@contextlib.contextmanager
def started():
    """Start it; end it, and all that was stored on it."""
    folder = tempfile.mkdtemp(prefix="eau2-ray-", dir=fast_folder())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAU2_HOME", folder)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join(path for path in sys.path if path)
        )  # of the nodes: they have FreshNode
        try:
            cluster = RayCluster(folder)
            cluster.opener("first")  # connects: what Ray opens is not the first test's
            yield cluster
        finally:
            ray.shutdown()
            launch.down("tests")
            shutil.rmtree(folder)


_started = contextlib.ExitStack()
_clusters: list[RayCluster] = []  # one, or none


def running() -> RayCluster:
    """Return the cluster there is; start it when there is none."""
    if not _clusters:
        _clusters.append(_started.enter_context(started()))
    return _clusters[0]


def end() -> None:
    """End it, if there is one."""
    _clusters.clear()
    _started.close()
