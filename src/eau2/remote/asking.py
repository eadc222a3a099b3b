"""What is asked of the coordinator of a cluster, and waited for: a store to be made, a node to leave, to be ready."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import Unreachable
from eau2.cluster.runtime import finish
from eau2.cluster.view import State
from eau2.errors import NodeUnavailable
from eau2.remote.transport import COORDINATOR, WAITS_HINT, ThreadRuntime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.cluster.view import View
    from eau2.remote.coordinator import ClusterStatus
    from eau2.remote.transport import Transport

_AGAIN_SECONDS = 0.05


def found_store(transport: Transport, names: Sequence[str], replicas: int, *, seconds: float = 30.0) -> View:
    """Make a store on the nodes `names`, unless there is one already; return its view.

    InvalidOption; NodeUnavailable when it is not ready in `seconds`: the message says what it waits for.
    """
    runtime = ThreadRuntime(transport, threading.Event())
    coordinator: Any = runtime.coordinator()
    with contextlib.suppress(Unreachable):  # it has been asked, or will be, by whoever calls this again
        finish(awaited(coordinator.found(tuple(names), replicas)))
    view = ready(runtime, seconds).view
    assert view is not None  # it is ready
    return view


def drain_node(transport: Transport, name: str, *, seconds: float = 600.0) -> View:
    """Have node `name` leave for good, and return the view in which it has left: the others have copies of all it had.

    A node that is dead is not waited for any more, and what only it knew is given up. InvalidOption when there is no
    such node, or when too few would be left for the copies; NodeUnavailable when it takes longer than `seconds`: it
    goes on.
    """
    runtime = ThreadRuntime(transport, threading.Event())
    coordinator: Any = runtime.coordinator()
    deadline, why = runtime.now() + seconds, f"the {COORDINATOR} does not answer"
    while True:
        with contextlib.suppress(Unreachable):
            view: View = finish(awaited(coordinator.drain(name)))
            if view.state(name) == State.LEFT:
                return view
            why = f"it is {view.state(name).name.lower()}, in epoch {view.epoch}"
        if runtime.now() >= deadline:
            raise NodeUnavailable(
                f"{name} has not left within {seconds:g} seconds: {why}", hint="it goes on; ask again"
            )
        time.sleep(_AGAIN_SECONDS)


def ready(runtime: ThreadRuntime, seconds: float) -> ClusterStatus:
    """Return the status of a cluster that can be used. NodeUnavailable when it is none in that time."""
    deadline, why, hint = runtime.now() + seconds, f"its {COORDINATOR} does not answer", ""
    coordinator: Any = runtime.coordinator()
    while True:
        with contextlib.suppress(Unreachable):
            status: ClusterStatus = finish(awaited(coordinator.status()))
            if status.view is not None:
                return status
            waiting = f"waits for {', '.join(status.awaited)}" if status.awaited else "knows of no store yet"
            why, hint = f"its {COORDINATOR} {waiting}", WAITS_HINT if status.awaited else ""
        if runtime.now() >= deadline:
            raise NodeUnavailable(f"the cluster was not ready within {seconds:g} seconds: {why}", hint=hint)
        time.sleep(_AGAIN_SECONDS)


async def awaited(call: Any) -> Any:
    """Return what `call` comes to, which may be any that can be awaited."""
    return await call
