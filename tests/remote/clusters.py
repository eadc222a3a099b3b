"""Clusters for tests: nodes and a coordinator, as threads of this process or as processes that can be killed."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
from pathlib import Path

import pytest
from tests.remote.sockets import Door, SocketTransport
from tests.until import SECONDS_MAX

from eau2.errors import NodeUnavailable
from eau2.remote.asking import found_store
from eau2.remote.coordinator import CoordinatorServer
from eau2.remote.driver import RemoteNodes
from eau2.remote.server import NodeServer
from eau2.remote.transport import COORDINATOR
from eau2.remote.workers import tables_of
from eau2.store.store import Store

LEASE_SECONDS = 1.0


class Served:
    """One node, or the coordinator (no directory), in this process."""

    def __init__(self, sockets, name, directory=None, **options):
        self.transport = SocketTransport(sockets)
        if directory is None:
            self.server = CoordinatorServer(self.transport, **options)
        else:
            self.server = NodeServer(directory, self.transport, name=name, **options)
        self.door = Door(sockets, name, self.server.ask)

    def stop(self):
        self.door.close()
        self.server.stop()
        self.transport.close()


def serve(sockets, name, directory, ready, options):
    """Be a process that has one node, or the coordinator, until it is told to end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in the threads that are started now, too
    served = Served(sockets, name, directory, **options)
    ready.set()
    signal.sigwait({signal.SIGTERM})
    served.stop()


class RemoteStore(Store):
    """A store that closes its own transport too."""

    def __init__(self, transport, name, **options):
        self.transport = transport
        try:
            nodes = RemoteNodes(transport, **options)
        except BaseException:
            transport.close()
            raise
        super().__init__(nodes, tables_of(nodes), name=name)

    def close(self):
        super().close()
        self.transport.close()


def open_store(sockets, **options):
    """Open, in any process, the store of the cluster whose doors are in `sockets`."""
    return RemoteStore(SocketTransport(sockets), str(sockets), **options)


def is_settled(store, count):
    """Whether `count` nodes are live and all copies are in their places. Before that an epoch is still to come, and
    what is sent in the one before it is refused."""
    return len(store.nodes) == count and (view := store.node.view).base == view.live and not view.fell


def unavailable(connect):
    """What NodeUnavailable says, which `connect` is to raise. On a busy machine it may be that nobody has answered."""
    with pytest.raises(NodeUnavailable) as refused:
        connect()
    return str(refused.value)


class Cluster:
    """`names` are nodes with directories in `folder`; its sockets are in a folder with a short name."""

    def __init__(self, folder, names, replicas=2, *, lease_seconds=LEASE_SECONDS, **options):
        self.folder, self.replicas = Path(folder), replicas
        self._sockets = tempfile.TemporaryDirectory(prefix="eau2-", dir="/tmp")  # a socket's path has 108 bytes
        self.sockets = self._sockets.name
        self.options = {"lease_seconds": lease_seconds, **options}
        self.running = {}
        self.start(COORDINATOR)
        for name in names:
            self.start(name)
        if names:
            self.found(names)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.running):
            self.stop(name)
        self._sockets.cleanup()

    def found(self, names):
        transport = SocketTransport(self.sockets)
        try:
            return found_store(transport, names, min(self.replicas, len(names)))
        finally:
            transport.close()

    def arguments(self, name):
        if name == COORDINATOR:
            return None, {"lease_seconds": self.options["lease_seconds"]}
        return str(self.folder / name), self.options

    def start(self, name):
        directory, options = self.arguments(name)
        self.running[name] = Served(self.sockets, name, directory, **options)

    def stop(self, name):
        self.running.pop(name).stop()

    def opener(self, **options):
        return functools.partial(open_store, self.sockets, **options)


class ProcessCluster(Cluster):
    """Each node and the coordinator are a process, which can be killed and frozen."""

    def __init__(self, processes, *args, **named):
        self._processes = processes
        super().__init__(*args, **named)

    def start(self, name):
        directory, options = self.arguments(name)
        ready = self._processes.Event()
        process = self._processes.Process(target=serve, args=(self.sockets, name, directory, ready, options))
        process.start()
        self.running[name] = process
        assert ready.wait(SECONDS_MAX)

    def stop(self, name):
        process = self.running.pop(name)
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        process.join(10)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"{name} did not end within 10 seconds")

    def kill(self, name):
        process = self.running.pop(name)
        process.kill()
        process.join()

    def freeze(self, name):
        os.kill(self.running[name].pid, signal.SIGSTOP)

    def thaw(self, name):
        os.kill(self.running[name].pid, signal.SIGCONT)
