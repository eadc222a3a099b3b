"""Application: a program that runs on every node of a store at once, each instance over its part of the rows (SPMD)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from eau2.errors import InvalidOption, WrongKind
from eau2.query.placing import count_local
from eau2.store.arguments import checked_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from eau2.frame.frame import Frame
    from eau2.query.source import Source
    from eau2.store.store import Store

BARRIER_SECONDS = 600.0  # the longest that the other nodes may compute meanwhile, unless the program says more


class Ended(BaseException):
    """Raised in a program when another node failed, or the caller gave up: no fault of the node it is raised on.

    No Exception, so that a program's own `except Exception` lets it pass; `finally` blocks run.
    """


class Part(Protocol):
    """One node's part in a run: all that an instance of a program knows of the others.

    In one process it is made of threads and a lock (eau2.programs.running); on a cluster its methods would be calls.
    """

    @property
    def index(self) -> int: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the nodes that the run began on, in order."""

    @property
    def store(self) -> Store: ...

    def check(self) -> None:
        """Raise Ended when the run has failed."""

    def meet(self, name: str, timeout_seconds: float) -> None:
        """Return when every node has called this with `name` as often as this one."""

    def agreed(self, subject: tuple[str, int], proposal: tuple[str, ...]) -> tuple[str, ...]:
        """Return what the first node proposed for `subject`, on all nodes alike."""


class Application(ABC):
    """A program for every node at once. Write `run`, and start it with `eau2.run(Program, on=store)` or `eau2 run`.

    Each node gets an instance of its own, and instances share nothing but the store: on a cluster they are in different
    processes. Parameters are class attributes with an annotation (bool, int, float, str, Path, or one of these or
    None), and a default unless they must be given: `degrees: int = 4`. They are set before `run`.

    What `run` prints comes out a line at a time, labelled with the node when there are several. When it raises on one
    node, the others are ended: Ended is raised in them at their next step of Python, or when a call of the store, a
    barrier or native code comes back to Python.
    """

    _part: Part | None = None

    @abstractmethod
    def run(self) -> object:
        """What every node does. `eau2.run` returns a list of what it returned, in the order of the nodes."""

    @property
    def this_node(self) -> int:
        """The number of the node that this instance runs on, from 0."""
        return self._taking_part().index

    @property
    def node_count(self) -> int:
        """How many nodes run the program."""
        return len(self._taking_part().names)

    @property
    def node_name(self) -> str:
        """The name of the node that this instance runs on."""
        part = self._taking_part()
        return part.names[part.index]

    @property
    def store(self) -> Store:
        """The store. Its verbs raise Ended when the run has failed on another node, `wait` within 0.1 seconds."""
        return self._taking_part().store

    def local(self, frame: Frame) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a stored frame that are this node's, a batch at a time. Nothing is copied.

        Every row is some node's, and no row is two nodes', also when nodes die or return during the run. A small frame
        is one chunk, and so all on one node. WrongKind for the answer of a query, which is on no node; Corrupt.
        """
        part = self._taking_part()
        source = frame.source
        if source is None:
            raise WrongKind(
                "the answer of a query is on no node", hint="store.put it, and pass what store.frame returns"
            )
        # The first node's view of who has what is everybody's: two that looked at different moments, between which a
        # node died, would count rows twice or not at all.
        places = part.agreed((source.key, source.version), source.places) if source.key else source.places
        mine = _chunks_of(part.names, part.index, places, len(source.buffers))
        source.verify(mine)
        return _batches(part, source, mine)

    def barrier(self, name: str, *, timeout_seconds: float = BARRIER_SECONDS) -> None:
        """Return when every node has reached the barrier of that name. Names may be used again.

        When a node does not come in time, or cannot come any more because its `run` has returned, or because all wait
        at different barriers, the run fails, and says which nodes are missing.
        """
        self._taking_part().meet(name, checked_seconds(timeout_seconds))

    def _taking_part(self) -> Part:
        if self._part is None:
            name = type(self).__name__
            raise InvalidOption(f"this {name} does not run on a node", hint=f"eau2.run({name}, on=store) makes those")
        return self._part


def _chunks_of(names: Sequence[str], index: int, places: Sequence[str], chunks: int) -> list[int]:
    """Return the chunks that are the node's. Those of nodes that came after the run began are dealt out in turn."""
    if not places:
        return list(range(chunks)) if index == 0 else []
    known = {name: number for number, name in enumerate(names)}
    return [chunk for chunk, place in enumerate(places) if known.get(place, chunk % len(names)) == index]


def _batches(part: Part, source: Source, chunks: Sequence[int]) -> Iterator[pa.RecordBatch]:
    for chunk in chunks:
        part.check()
        count_local(source, chunk, part.names[part.index])
        yield from source.batches([chunk])
