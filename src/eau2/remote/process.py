"""What each process of a cluster is to the others, whatever places it: one who answers."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import time
import traceback
from typing import TYPE_CHECKING

from eau2.cluster.peer import Unreachable
from eau2.errors import Eau2Error
from eau2.remote.membership import NodeStatus
from eau2.remote.raylets import BROUGHT
from eau2.remote.server import NodeServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.remote.coordinator import CoordinatorServer
    from eau2.remote.deployment import Deployment, Placed
    from eau2.remote.transport import Answer, Arguments, Transport

_AGAIN_SECONDS = 1.0


class Process:
    """What an actor is to others: one who answers. When it ends Ray starts it anew, as long as its machine is there;
    what counts is on a disk."""

    def __init__(self) -> None:
        self._server: NodeServer | CoordinatorServer | None = None

    async def ask(self, method: str, arguments: Arguments) -> Answer:
        """Have `method` done."""
        if self._server is None:
            return None, Unreachable("a node that is not ready")
        try:
            return await asyncio.wrap_future(self._server.ask(method, arguments))
        except asyncio.CancelledError:  # it was stopped meanwhile
            return None, Unreachable("a node that has ended")

    async def stop(self) -> None:
        """End what it does, and leave its files as they are to be."""
        if self._server is not None:
            self._server.stop()


class ServingNode(Process):
    """A node. Its directory may be in use when it begins, by a process that was given up and has not ended: it tries
    until it gets it, as Ray does not start an actor anew that raises here."""

    transport: Callable[[str], Transport]  # of the cluster of that name

    def __init__(self, deployment: Deployment, placed: Placed) -> None:
        super().__init__()
        self._refused = ""
        threading.Thread(target=self._begin, args=(deployment, placed), name="eau2-beginning", daemon=True).start()

    def _begin(self, deployment: Deployment, placed: Placed) -> None:
        transport, memory_bytes = self.transport(deployment.name), deployment.memory_bytes or None
        while self._server is None:
            try:
                self._server = NodeServer(
                    placed.directory,
                    transport,
                    name=placed.name,
                    flush=deployment.flush,
                    memory_bytes=memory_bytes,
                    allow_exec=deployment.allow_exec,
                    brought=os.environ.get(BROUGHT, ""),
                )
            except Exception as error:
                self._refused = str(error) if isinstance(error, Eau2Error) else traceback.format_exc()
                time.sleep(_AGAIN_SECONDS)
        importlib.import_module("eau2.distributed.runner")  # 0.3 s that the first query need not wait

    async def ask(self, method: str, arguments: Arguments) -> Answer:
        if self._server is None and method == "status":
            return NodeStatus("", "", 0, serves=False, refused=self._refused), None
        return await super().ask(method, arguments)
