"""What only a node of this process can do: without waiting for others, or all or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from eau2.errors import Eau2Error, StoreBusy
from eau2.store import recent
from eau2.store.database import BUSY_SECONDS_MAX, IS_ELSEWHERE
from eau2.store.expiry import UNTIL
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eau2.store.changes import Outcome
    from eau2.store.chunks import ChunkFiles
    from eau2.store.generation import Generation, Waiting
    from eau2.store.nodes import Entry, Staged, Write
    from eau2.store.reading import Reader
    from eau2.store.statistics import Tally
    from eau2.store.writing import Writer
    from eau2.values.arriving import ArrivingChunk

_END = f"""case when {IS_ELSEWHERE} then (select substr(payload, 1, 8) from large where id = entry.payload)
          else substr(payload, 1, 8) end"""
_EXPIRING = f"select key, {_END} from entry where kind = 5"


class Here(Protocol):
    """What only a node of this process can do. `generation` and `put` are for one thread, an event loop's."""

    def generation(self) -> int | None:
        """Return a number that differs after any process has begun to commit; None while one is at it. 0.4 us.

        What was read after a look at it is still true where it is the same later.
        """

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As `Node.get_many`. StoreBusy at once where another thread reads."""

    def plain(self, keys: Sequence[str]) -> dict[str, bytes] | None:
        """Return the bytes under those of `keys` that have a value, in their order, all of one moment; None where a
        key has something else, or bytes with an end."""

    def put(self, values: Mapping[str, bytes]) -> bool:
        """Put all of `values` in one transaction, as `Node.write`; return whether nobody else has written since
        `generation` was looked at last, which is one more then. StoreBusy at once where another thread or process is
        writing, where a frame is to be replaced, whose files would have to go, and where many puts of others are to be
        merged first. Errors of the whole, after which
        nothing is changed. Nobody may be told yet where the store `flushes`."""

    @property
    def flushes(self) -> bool:
        """Whether what was put must be on the medium before anybody is told."""

    def flush(self) -> None:
        """Have all that was `put` on the medium. OutcomeUnknown."""

    def write_all(self, writes: Sequence[Write]) -> list[Outcome]:
        """As `Node.write` of different keys without chunks, but all of them or, where one is refused, none."""

    def stage_arriving(self, chunk: ArrivingChunk) -> Staged:
        """As `Node.stage`: write a chunk as it comes. What it raises meanwhile leaves nothing behind either."""

    def tally(self) -> Tally:
        """Return what a thread counts with that answers of what was read for others: these too are operations."""

    def expiring(self) -> list[tuple[str, int]]:
        """Return the keys of all values that have an end, and this. 1 us each."""


def here(
    reader: Reader,
    writer: Writer | None,
    files: ChunkFiles,
    generation: Generation,
    waiting: Waiting,
    tally: Callable[[], Tally],
) -> Here | None:
    """Return what only a node of this process can do; None of one that only reads."""
    return None if writer is None else _NodeHere(reader, writer, files, generation, waiting, tally)


class _Refused(Exception):
    """One of several writes is: what has been done of them is rolled back."""


class _NodeHere:
    """Not the node itself: that would hold itself, and outlive the last who holds it."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        files: ChunkFiles,
        generation: Generation,
        waiting: Waiting,
        tally: Callable[[], Tally],
    ) -> None:
        self._reader, self._writer, self._waiting = reader, writer, waiting
        self.tally, self.stage_arriving = tally, files.stage_arriving
        self._counters = generation.counters
        self._seen = -1  # `started` when it was looked at last
        self._unflushed = 0  # the last that was put

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        if not self._reader.is_free():
            raise StoreBusy("another thread reads", hint="wait for it")
        return self._reader.get_many(keys)

    def plain(self, keys: Sequence[str]) -> dict[str, bytes] | None:
        return self._reader.plain(keys)

    def generation(self) -> int | None:
        try:
            self._seen, finished = self._counters[0], self._counters[1]
        except ValueError:  # it was let go
            raise closed() from None
        return self._seen if finished == self._seen else None

    def put(self, values: Mapping[str, bytes]) -> bool:
        writer, before = self._writer, self._seen

        def change() -> None:
            writer.changes.put_all(values)
            writer.require_room(sum(map(len, values.values())))

        in_front = len(values) >= recent.BATCH_MIN and writer.room.is_plenty
        told = self._note_unflushed
        writer.transaction(change, seconds=0.0, unflushed=told, in_front=in_front, quickly=True)
        writer.writes += len(values)
        self._waiting.notify()
        # Ours made `started` one more: had another begun since, it would be two.
        return bool(self._counters[0] == before + 1)

    @property
    def flushes(self) -> bool:
        return self._writer.flushing is not None

    def flush(self) -> None:
        if self._writer.flushing is not None:
            self._writer.flushing.flush(self._unflushed)

    def _note_unflushed(self, started: int) -> None:
        self._unflushed = started

    def write_all(self, writes: Sequence[Write]) -> list[Outcome]:
        writer = self._writer
        outcomes: list[Outcome] = []

        def change() -> None:
            outcomes[:] = writer.changes.write(writes)
            if any(isinstance(outcome, Eau2Error) for outcome in outcomes):
                raise _Refused
            writer.require_room(sum(len(write.payload) for write in writes))

        try:
            writer.transaction(change, seconds=BUSY_SECONDS_MAX)
        except _Refused:
            return outcomes
        writer.writes += len(writes)
        self._waiting.notify()
        return outcomes

    def expiring(self) -> list[tuple[str, int]]:
        return [(key, UNTIL.unpack(until)[0]) for key, until in self._reader.entries(_EXPIRING) if until is not None]
