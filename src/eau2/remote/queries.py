"""What a node does for queries: runs their fragments, over its chunks and within its memory, and keeps what they make.

A query has a job on each node that it runs on (`work.py`). It is told fragments, and says what they made. What is kept
for it goes when the job ends: with the query, some seconds after its caller has ended, or at the node's next start.
The caller's side: `workers.py`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eau2.distributed.fragment import CannotCut, Fragment, Piece
from eau2.errors import Eau2Error, QueryError
from eau2.metrics.report import counter, gauge
from eau2.query.waiting import Calls
from eau2.remote.shelf import Shelf
from eau2.remote.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.distributed.runner import Runner
    from eau2.query.sessions import Sessions
    from eau2.query.spill import SpillFolder
    from eau2.remote.transport import Transport
    from eau2.store.node import DirectoryNode


QUERIES_AT_ONCE = 4  # on a node; more take turns


class Given(NamedTuple):
    """To a node: rows of the caller's, as a chunk that no node has."""

    chunk_id: str
    data: bytes


class Ordered(NamedTuple):
    """To a node: fragments to run, each with a number, and pieces that are not needed any more, of any node."""

    fragments: tuple[tuple[int, Fragment], ...]
    freed: tuple[Piece, ...]


class Ran(NamedTuple):
    """From a node: what a fragment came to."""

    number: int
    made: tuple[Piece, ...]
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a node has for queries."""

    memory_bytes: int  # that all of them together may hold before they spill
    threads: int  # fragments of one query that run at once


@dataclass(frozen=True, slots=True)
class QueryStatistics:
    """Queries on a node since its process began."""

    queries: int = field(metadata=counter("Queries of which the node did a part.", "queries"))
    running: int = field(metadata=gauge("Queries that have a part on the node now.", "queries"))
    failures: int = field(metadata=counter("Parts of queries that failed on the node.", "parts"))


class Queries:
    """The queries of `node`: the sessions of the engine that they share, and threads, which take turns. Thread-safe."""

    def __init__(self, node: DirectoryNode, transport: Transport, folder: SpillFolder, terms: Terms) -> None:
        self._node, self._transport, self._folder = node, transport, folder
        self.terms = terms
        self.turns = Turns("eau2-fragments", QUERIES_AT_ONCE * terms.threads, share=terms.threads)
        self._lock = threading.Lock()  # guards everything below
        self._shelves: dict[str, Shelf] = {}
        self._sessions: Sessions | None = None
        self._begun = self._failed = 0

    def begin(self, query: str, say: Callable[[Any], None]) -> NodeQuery:
        """Begin a query."""
        from eau2.distributed.runner import Runner  # here: the engine takes 0.3 s to import
        from eau2.query.sessions import Sessions

        shelf = Shelf(query, self._node, Path(self._folder.path()), self._transport)
        with self._lock:
            if self._sessions is None:
                self._sessions = Sessions(self.terms.memory_bytes, self._folder.path(), self.terms.threads)
            self._shelves[query] = shelf
            self._begun += 1
            runner = Runner(
                self._sessions, memory_bytes=self.terms.memory_bytes, threads=self.terms.threads, shelf=shelf
            )
        return NodeQuery(self, query, shelf, runner, say)

    def statistics(self) -> QueryStatistics:
        with self._lock:
            return QueryStatistics(self._begun, len(self._shelves), self._failed)

    def piece(self, query: str, number: int, start: int, size: int) -> bytes:
        """Return a part of a piece. FileNotFoundError."""
        with self._lock:
            shelf = self._shelves.get(query)
        if shelf is None:
            raise FileNotFoundError(2, "no such query", query)
        return shelf.part(number, start, size)

    def failed(self) -> None:
        """A part of a query has failed, as its caller is told."""
        with self._lock:
            self._failed += 1

    def ended(self, query: str) -> None:
        """Forget a query."""
        with self._lock:
            self._shelves.pop(query, None)

    def close(self) -> None:
        """Begin nothing more. Idempotent."""
        self.turns.close()


class NodeQuery:
    """The job of a query on a node. See `work.Working`."""

    def __init__(self, queries: Queries, query: str, shelf: Shelf, runner: Runner, say: Callable[[Any], None]) -> None:
        self.capacity = queries.terms.threads
        self._queries, self._query, self._shelf, self._runner, self._say = queries, query, shelf, runner, say
        self._calls = Calls()

    def take(self, thing: Given | Ordered) -> None:
        if isinstance(thing, Given):
            self._shelf.give(thing.chunk_id, thing.data)
        else:
            self._shelf.drop(thing.freed)
            several = [partial(self._run, number, fragment) for number, fragment in thing.fragments]
            self._queries.turns.add(self, several)

    def end(self) -> None:
        self._queries.turns.drop(self)
        self._calls.end()
        self._shelf.close()
        self._queries.ended(self._query)

    def _run(self, number: int, fragment: Fragment) -> None:
        try:
            ran = Ran(number, tuple(self._runner.run(fragment, self._calls)))
        except CannotCut as why:
            ran = Ran(number, (), why)
        except Eau2Error as error:
            names_none = not isinstance(error, QueryError) and fragment.node not in error.message
            if names_none:  # who can mend it, mends it there
                error.message = f"{fragment.node}: {error.message}"
            ran = Ran(number, (), error)
        except BaseException as error:  # of the engine or of ours: the caller is to know in any case
            ran = Ran(number, (), QueryError(f"a part of the query failed on {fragment.node}: {error!r}"))
        if ran.error is not None:
            self._queries.failed()
        self._say(ran)
