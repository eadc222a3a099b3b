"""A node of this process, used from a thread that must not wait: the event loop of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from eau2.store.nodes import closed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eau2.store.generation import Generation, Waiting
    from eau2.store.nodes import Entry
    from eau2.store.reading import Reader
    from eau2.store.writing import Writer


class AtOnce(Protocol):
    """What can be done of a node without asking another process, and without waiting for one that writes."""

    def generation(self) -> int | None:
        """Return a number that differs after any process has begun to commit; None while one is at it. 0.4 us.

        What was read after a look at it is still true where it is the same later.
        """

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As `Node.get_many`."""

    def is_empty(self, prefix: str) -> bool:
        """Whether no key starts with `prefix`. 5 us."""

    def put(self, values: Mapping[str, bytes]) -> bool:
        """Put all of `values` in one transaction, as `Node.write`; return whether nobody else has written since
        `generation` was looked at last. StoreBusy at once where another thread or process is writing. Errors of the
        whole, after which nothing is changed, but for OutcomeUnknown."""


def at_once(reader: Reader, writer: Writer | None, generation: Generation, waiting: Waiting) -> AtOnce | None:
    """Return what can be done of a node at once; None of one that only reads."""
    return None if writer is None else _NodeAtOnce(reader, writer, generation, waiting)


class _NodeAtOnce:
    """Not the node itself: that would hold itself, and outlive the last who holds it."""

    def __init__(self, reader: Reader, writer: Writer, generation: Generation, waiting: Waiting) -> None:
        self._reader, self._writer, self._waiting = reader, writer, waiting
        self._counters = generation.counters
        self._seen = -1  # `started` when it was looked at last
        self.get_many = reader.get_many

    def generation(self) -> int | None:
        try:
            self._seen, finished = self._counters[0], self._counters[1]
        except ValueError:  # it was let go
            raise closed() from None
        return self._seen if finished == self._seen else None

    def is_empty(self, prefix: str) -> bool:
        return not self._reader.keys(prefix, 1)

    def put(self, values: Mapping[str, bytes]) -> bool:
        writer, before = self._writer, self._seen
        writer.transaction(lambda: writer.changes.put_all(values), seconds=0.0)
        writer.writes += len(values)
        self._waiting.notify()
        # Ours made `started` one more: had another begun since, it would be two.
        return bool(self._counters[0] == before + 1)
