"""Jobs: what nodes that are processes of their own do for a caller besides storing. A caller's map, or an instance of
its program, has a job on each node that it runs on, where worker processes do the work.

The caller and the job tell each other things, in order, each once. What these are is between the two; all can be
pickled. A job ends when the caller ends it, and some seconds after the caller is not heard of any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from eau2.errors import Eau2Error


class Ear(Protocol):
    """Who hears what a job says. Called in a thread of the job."""

    def hear(self, told: Any) -> None: ...

    def lost(self, error: Eau2Error) -> None:
        """Nothing more is heard: the node does not answer any more, or the store was closed. Called once at most."""

    def room(self) -> int:
        """How many more things may be told now; what cannot be waits on the node, and the job for that."""


class Job(Protocol):
    """A job as its caller has it. Thread-safe."""

    capacity: int  # how many things the node does at once

    def tell(self, thing: Any) -> None:
        """Tell it to the job. NodeUnavailable when the node does not answer."""

    def end(self) -> None:
        """End the job and its processes, without waiting for that. Nothing is heard after this. Idempotent."""


class Jobs(Protocol):
    """Begins jobs. Thread-safe."""

    def begin(self, node: str, kind: str, order: Any, ear: Ear) -> Job:
        """Begin a job of that kind ("map", "program") on `node`. NodeUnavailable, StoreClosed, and what the node
        raises."""
