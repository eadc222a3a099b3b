"""One node in a directory: entries in SQLite, chunks in files. Any number of processes may have it open.

<directory>/entries.db  -wal  -shm     database.py
<directory>/chunks/ab/ab12....arrow    chunks.py
<directory>/staging/<holder>/  generation    holder.py, generation.py
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error, InvalidOption, ReadOnly
from eau2.store import copies, database, generation
from eau2.store import directory as directories
from eau2.store.audit import Audit
from eau2.store.chunks import ChunkFiles, NoSuchChunk
from eau2.store.here import here
from eau2.store.holder import others_live
from eau2.store.mapping import Mappings
from eau2.store.nodes import MappedFrame, NodeStatistics, ReadCounts, closed, no_homes
from eau2.store.open_nodes import add_open, remove_open
from eau2.store.puts import moves_files
from eau2.store.reading import Reader
from eau2.store.spare import Spare
from eau2.store.statistics import Figures, Sizing, bytes_with_log
from eau2.store.sweep import sweep, without_row
from eau2.store.writing import Writer
from eau2.values.key import FIRST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from eau2.metrics.report import Metric, Report
    from eau2.store.database import Flush
    from eau2.store.holder import Holder
    from eau2.store.nodes import Entry, Node, NodeCheck, Record, Staged, Write
    from eau2.values.chunk import Chunk
    from eau2.values.manifest import Manifest

_FRAMES = "select key from entry where kind in (2, 4) and key >= ? order by key"
_SWEEP_SECONDS = 60.0  # writes of frames look this often for what dead processes left
_CLOSE_SECONDS = 0.9  # close() ends within a second


class DirectoryNode:
    """The `Node` in `directory`, which is made when it is not there. Thread-safe.

    flush: "process", a write that has returned survives the end of any process; "power", also the loss of power.
    In a directory that cannot be written it reads, and writes raise ReadOnly. In a forked child it raises StoreClosed.
    What nobody closes is closed when nobody holds it, and when the interpreter ends.
    Raises StoreUnusable, ReadOnly (nothing there, and nothing can be made), Corrupt, FormatTooNew, DiskFull.
    """

    jobs = fleet = None
    chunk_homes = no_homes

    def __init__(self, directory: str | os.PathLike[str], *, flush: Flush = "process", name: str = "node-0") -> None:
        if flush not in ("process", "power"):
            raise InvalidOption(f"flush is 'process' or 'power', not {flush!r}")
        self.name = name
        self.directory = Path(os.path.abspath(directory))
        self._database = self.directory / "entries.db"
        self._files = ChunkFiles(self.directory, durable=flush == "power")
        self._state = "open"
        self._reader_patience, self._writer_patience = database.Patience(), database.Patience()
        self._swept = time.monotonic()
        self._spare = Spare(self.directory)
        self._spare.lend(lambda: self._begin(flush))
        self._mappings = Mappings(self._files)
        self._counting, self._read = threading.Lock(), ReadCounts()  # the one guards the other
        self.figures = Figures(self.directory)
        # Not a method of ours: the node would hold itself, and outlive the last who holds it.
        settle = (lambda: None) if self._writer is None else self._writer.settle
        self._waiting = generation.Waiting(self._generation, settle)
        tally = self.figures.asked.tally
        self.here = here(self._reader, self._writer, self._files, self._generation, self._waiting, tally)
        self._forgotten = weakref.finalize(self, _let_go, self._files.holder, self._writer)
        self._forgotten.atexit = False  # closed whole then
        add_open(self)

    def _begin(self, flush: Flush) -> None:
        with contextlib.ExitStack() as undo:
            self._files.holder = directories.hold(self.directory)
            if self._files.holder is not None:
                undo.callback(self._files.holder.close)
            directories.make(self.directory, self._files.holder)
            self._generation = generation.Generation(self.directory / "generation", read_only=self.read_only)
            undo.callback(self._generation.close)
            self._reader = Reader(self._database, self._generation, self._reader_patience, read_only=self.read_only)
            undo.callback(self._reader.close)
            self._sizing = Sizing(self._reader)
            self._writer: Writer | None = None
            if not self.read_only:
                patience = self._writer_patience
                self._writer = Writer(self._database, self._generation, self._files, self._spare, patience, flush=flush)
                undo.callback(self._writer.close, _CLOSE_SECONDS)
                self._reader.merge = self._writer.merge
                self._sweep()
            undo.pop_all()

    def __repr__(self) -> str:
        return f"<DirectoryNode {self.name} {self.directory}: {self._state}>"

    @property
    def read_only(self) -> bool:
        """Whether the directory could not be written when it was opened."""
        return self._files.holder is None

    def shared(self) -> bool:
        """Whether another process has the directory open too."""
        return self._files.holder is not None and others_live(self._files.holder.directory)

    # -- entries ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """As `Node.get`. 2 us while nobody writes, else 4."""
        return self._reader.get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        return self._reader.get_many(keys)

    def keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        return self._reader.keys(prefix, limit)

    def frames(self) -> list[str]:
        return [key for (key,) in self._reader.entries(_FRAMES, (FIRST,))]

    def write(self, writes: Sequence[Write]) -> list[int | Eau2Error]:
        if not writes:
            return []
        outcomes = self._writing().write(writes)
        self._waiting.notify()
        if moves_files(writes) and time.monotonic() - self._swept > _SWEEP_SECONDS:
            self._sweep()
        return outcomes

    # -- copies of what other nodes have ------------------------------------------------------------------------------

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        return copies.records(self._reader, keys)

    def version_floor(self) -> int:
        return copies.version_floor(self._reader)

    def listing(self, after: str, limit: int) -> list[tuple[str, int, int]]:
        return copies.listing(self._reader, after, limit)

    def chunk_sizes(self) -> dict[str, int]:
        return dict(self._reader.rows("select id, size from chunk where refs > 0"))

    def has_chunks(self, chunk_ids: Sequence[str]) -> list[bool]:
        return copies.has_chunks(self._reader, chunk_ids)

    def marks(self, chunk_ids: Sequence[str]) -> list[tuple[int, str] | None]:
        """Return of each chunk its size and the mark under which its file was found whole; None where none is named."""
        rows = self._reader.chunk_rows(chunk_ids)
        return [(row[0], row[2]) if row is not None and row[1] > 0 else None for row in rows]

    def store(self, records: Sequence[Record], *, force: bool = False, seen: Mapping[str, int] | None = None) -> None:
        copies.store(self._writing(), records, force=force, seen=seen or {})
        self._waiting.notify()
        if records and records[-1].chunks and time.monotonic() - self._swept > _SWEEP_SECONDS:
            self._sweep()

    def erase(self, keys: Sequence[str], *, seen: Mapping[str, int] | None = None) -> None:
        copies.erase(self._writing(), keys, seen or {})
        self._waiting.notify()

    def adopt(self) -> None:
        copies.adopt(self._writing())
        self._waiting.notify()

    # -- waiting ------------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        self._check_open()
        try:
            return self._generation.number()
        except ValueError:  # closed in between
            raise closed() from None

    def wait_for_write(self, since: int, timeout_seconds: float) -> int:
        """As `Node.wait_for_write`. A write in this process wakes at once, one in another within 5 ms."""
        self._check_open()
        self._waiting.wait(since, timeout_seconds)
        return self.generation()

    def on_write(self, told: Callable[[], None]) -> None:
        """Have `told` called after every write of this process, in the thread that wrote."""
        self._waiting.told = told

    # -- chunks -------------------------------------------------------------------------------------------------------

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        if first not in ("", self.name):
            raise InvalidOption(f"{first!r} is no live node", hint=f"this is: {self.name}")
        return (self.name,)

    def live(self) -> tuple[str, ...]:
        return ()

    def at(self, name: str) -> Node:
        return self

    def stage(self, chunk: Chunk, homes: Sequence[str] = ()) -> Staged:
        self._writing()
        return self._files.stage(chunk.id, chunk.pieces, chunk.size)

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        self._writing()
        with self._mappings.linking(chunk_id) as shared:
            trusted = None if shared is None or shared.address != data.address else shared.stamp
            return self._files.stage_again(chunk_id, data, trusted)

    def discard(self, staged: Sequence[Staged]) -> None:
        renewed: dict[str, str] = {}
        for chunk in staged:
            with self._mappings.linking(chunk.id) as shared:
                before = None if shared is None else shared.stamp
                self._files.discard([chunk])
            if shared is not None and shared.stamp != before:  # a link to the chunk's file
                renewed[chunk.id] = self._files.mark(shared.stamp)
        self._keep_marks(renewed)

    def map_frame(self, manifest: Manifest, *, key: str = "") -> MappedFrame:
        return MappedFrame(self.map(manifest.chunk_ids, key=key))

    def map(self, chunk_ids: Sequence[str], *, key: str = "") -> list[pa.Buffer]:
        """As `Replica.map`. 40 us a chunk that is trusted; one that is not is read and hashed at 15 GB/s."""
        self._check_open()
        mappings = {chunk_id: self._mappings.shared(chunk_id) for chunk_id in dict.fromkeys(chunk_ids)}
        missing = [chunk_id for chunk_id, mapping in mappings.items() if mapping is None]
        renewed: dict[str, str] = {}
        for chunk_id, row in zip(missing, self._reader.chunk_rows(missing), strict=True):
            if row is None:
                raise NoSuchChunk(self._files.path(chunk_id))
            mappings[chunk_id], mark = self._mappings.open(chunk_id, row[0], row[2], key)
            if mark is not None:
                renewed[chunk_id] = mark
        self._keep_marks(renewed)
        return [mapping.buffer() for chunk_id in chunk_ids if (mapping := mappings[chunk_id]) is not None]

    def verify(
        self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "", places: Sequence[str] = ()
    ) -> None:
        self._check_open()
        for chunk_id, mapped in zip(chunk_ids, data, strict=True):
            self._mappings.verify(chunk_id, mapped, key, self._mark_of)

    def mend(self, staged: Staged) -> None:
        self._writing().transaction(lambda: self._writing().changes.mend(staged))

    def count_read(self, more: ReadCounts) -> None:
        with self._counting:
            self._read = self._read.and_also(more)

    # -- the node itself ----------------------------------------------------------------------------------------------

    def rebalance(self) -> int:
        return 0

    def check(self) -> NodeCheck:
        self._check_open()
        audit = Audit(self._database, self._mappings, self._files.path, read_only=self.read_only)
        return audit.run(list(self._files.ids()), self._without_row)

    def statistics(self, *, lately: bool = False) -> NodeStatistics:
        """As `Node.statistics`. Counts the rows, 10 ms for 100,000 keys, unless they may be those of `lately`."""
        self._check_open()
        sizes = self._sizing.lately(self.generation()) if lately else self._sizing.count()
        writer, gets = self._writer, self._reader.gets
        writes = 0 if writer is None else writer.writes
        return NodeStatistics(
            *sizes,
            value_bytes=bytes_with_log(self._database),
            gets=gets,
            writes=writes,
            operations=self.figures.asked.all(gets + writes) + self._read.tasks,
            commits=0 if writer is None else writer.commits,
            waits=self._waiting.waits,
            chunks_written=self._files.written,
            chunks_mapped=self._mappings.count,
            chunks_verified=self._mappings.verified,
            chunks_removed=0 if writer is None else writer.changes.removed,
            name=self.name,
            **self._read._asdict(),
        )

    def reports(self) -> tuple[Report, ...]:
        return (self.figures.report(self.statistics(lately=True)),)

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        self._check_open()
        self.figures.publish(metrics, source=source)

    def close(self) -> None:
        """End threads, locks and connections within a second. Buffers that are held stay readable. Idempotent."""
        if self._state != "open":
            return
        self._state = "closed"
        remove_open(self)
        self._reader_patience.stop()
        self._writer_patience.stop()
        self._waiting.close()
        try:
            ended = self._writer is None or self._writer.close(_CLOSE_SECONDS)
        finally:  # also at Ctrl-C
            self._reader.close()
            self._forgotten()
        if ended:  # else the write under way still counts there; the map goes with the last who holds it
            self._generation.close()

    # -- private ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._state != "open":
            raise closed(forked=self._state == "forked")

    def _writing(self) -> Writer:
        self._check_open()
        if self._writer is None:
            raise ReadOnly(f"{self.directory} cannot be written", hint="mount or own the directory so that it can be")
        return self._writer

    def _mark_of(self, chunk_id: str) -> str:
        """Return the mark in the chunk's row: under which some process has found it whole."""
        with contextlib.suppress(Eau2Error):  # what is mapped can be hashed without the database
            (row,) = self._reader.chunk_rows([chunk_id])
            return "" if row is None else row[2]
        return ""

    def _keep_marks(self, marks: dict[str, str]) -> None:
        """Tell other processes which chunks were found whole. Not worth a wait, nor an error."""
        writer = self._writer
        if writer is None or not marks:
            return

        def change() -> None:
            for chunk_id, mark in marks.items():
                writer.execute("update chunk set stamp = ? where id = ?", (mark, chunk_id))

        with contextlib.suppress(Eau2Error):
            writer.transaction(change, seconds=0.1)

    def _without_row(self, chunk_ids: list[str]) -> list[str]:
        """Return those of `chunk_ids` that have a file and no row, at a moment when nobody gives files their names."""

        def change() -> list[str]:
            assert writer is not None
            return [chunk_id for chunk_id in without_row(writer, chunk_ids) if self._files.stat(chunk_id) is not None]

        writer = self._writer
        if not chunk_ids or writer is None:
            return []
        found: list[str] = writer.transaction(change)
        return found

    def _sweep(self) -> None:
        """Remove what dead processes left.

        What stands in the way (a full disk, a busy writer, damage) is not an error of whom we are part of: the next
        sweep tries again, and `check` names what is damaged.
        """
        self._swept = time.monotonic()
        with contextlib.suppress(Eau2Error):
            sweep(self._reader, self._writing(), self._files)
        self._spare.make()

    def abandon(self) -> None:
        """In a forked child. SQLite's connections may not be used nor closed here: closing would undo the parent's
        locks and could remove its log. So they are never freed, not even when the interpreter ends."""
        self._state = "forked"
        left = self._reader.abandon()
        if self._writer is not None:
            left += self._writer.abandon()
        for owned in left:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))
        self._mappings.abandon()
        self._counting = threading.Lock()
        self._forgotten()


def _let_go(holder: Holder | None, writer: Writer | None) -> None:
    """Give up what would outlive a node that nobody holds: its connections and its map go with the last reference.

    May run in any thread, in the middle of anything: it takes no lock and waits for nobody.
    """
    if holder is not None:
        holder.close(keep=writer is not None and writer.left_over)
