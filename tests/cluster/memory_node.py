"""A node in dictionaries: the same protocol as a directory's, in microseconds, for simulations of many nodes."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eau2.errors import Corrupt, DiskFull, Eau2Error, InvalidOption, StoreUnusable
from eau2.metrics.report import Report, metrics_of
from eau2.store import changes
from eau2.store.changes import NAMING, chunks_of
from eau2.store.chunks import NoSuchChunk
from eau2.store.nodes import (
    VERSION_MASK,
    Entry,
    Fault,
    Kind,
    MappedFrame,
    NodeCheck,
    NodeStatistics,
    ReadCounts,
    Record,
    Staged,
    closed,
    refusal,
)
from eau2.store.statistics import Figures
from eau2.values.chunk import identify
from eau2.values.key import FIRST, MARK, hold_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eau2.metrics.report import Metric
    from eau2.store.nodes import Place, Write
    from eau2.values.chunk import Chunk
    from eau2.values.manifest import Manifest

_ABSENT = object()


class MemoryNode:
    """A `Node` whose process may `crash()`, and whose disk may be full. Thread-safe.

    While `disk_full`, whatever would write raises DiskFull and changes nothing.
    """

    def __init__(self, name: str = "node-0") -> None:
        self.name = name
        self.disk_full = False
        self.entries: dict[str, Entry] = {}
        self.gone: dict[str, int] = {}  # the oldest first
        self.meta = {"version_floor": 0}
        self.references: dict[str, int] = {}
        self.files: dict[str, bytes] = {}  # chunks by id; a test may damage one
        self.staged: dict[str, bytes] = {}  # by path
        self._changed = threading.Condition()  # guards everything here
        self._generation = 0
        self._order: list[str] | None = None  # keys of entries and of gone, sorted; None: to be sorted anew
        self._undo: list[tuple[dict[str, Any], str, Any]] = []  # what the change under way has replaced
        self._paths = 0
        self._read = ReadCounts()
        self.published: list[Metric] = []
        self.figures = Figures(".")
        self._counts = dict.fromkeys(("gets", "writes", "commits", "waits", "written", "mapped", "removed"), 0)
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryNode {self.name}: {len(self.entries)} rows>"

    def crash(self) -> None:
        """End as by kill -9, and be there again: what was committed stays, what was staged goes."""
        with self._changed:
            self.staged.clear()
            self._counts = dict.fromkeys(self._counts, 0)
            self._closed = False
            self._changed.notify_all()

    # -- entries ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        self._check_open()
        self._counts["gets"] += 1
        return self.entries.get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        with self._changed:
            self._check_open()
            self._counts["gets"] += len(keys)
            return {key: self.entries[key] for key in keys if key in self.entries}

    def keys(self, prefix: str = "", *, limit: int | None = None) -> list[str]:
        with self._changed:
            self._check_open()
            order = self._sorted()
            found = (order[index] for index in range(bisect_left(order, max(prefix, FIRST)), len(order)))
            keys: list[str] = []
            for key in found:
                if not key.startswith(prefix) or (limit is not None and len(keys) >= limit):
                    break
                if key in self.entries:
                    keys.append(key)
            return keys

    def frames(self) -> list[str]:
        return [key for key in self.keys() if self.entries[key].kind in (Kind.FRAME, Kind.SPREAD)]

    def write(self, writes: Sequence[Write]) -> list[int | Eau2Error]:
        outcomes: list[int | Eau2Error] = []
        if writes:
            self._change(writes, lambda: outcomes.extend(self._apply(write) for write in writes))
            for write, outcome in zip(writes, outcomes, strict=True):
                if not isinstance(outcome, int):
                    self._discard(write.chunks)
        return outcomes

    # -- copies of what other nodes have ------------------------------------------------------------------------------

    def records(self, keys: Sequence[str]) -> dict[str, Record]:
        with self._changed:
            self._check_open()
            found = {key: self._record(key) for key in keys}
        return {key: record for key, record in found.items() if record is not None}

    def version_floor(self) -> int:
        self._check_open()
        return self.meta["version_floor"]

    def listing(self, after: str, limit: int) -> list[tuple[str, int, int]]:
        with self._changed:
            self._check_open()
            order = self._sorted()
            start = bisect_right(order, after)
            records = [self._record(key) for key in order[start : start + limit]]
            return [(record.key, record.rank, record.kind) for record in records if record is not None]

    def store(self, records: Sequence[Record], *, force: bool = False, seen: Mapping[str, int] | None = None) -> None:
        stored: list[bool] = []
        if records:
            self._change(records, lambda: stored.extend(self._store(record, force, seen or {}) for record in records))
            for record, done in zip(records, stored, strict=True):
                if not done:
                    self._discard(record.chunks)

    def erase(self, keys: Sequence[str], *, seen: Mapping[str, int] | None = None) -> None:
        def change() -> None:
            for key in keys:
                known = self._record(key)
                if seen is not None and key in seen and (known is None or known.rank != seen[key]):
                    continue
                self._release(self.entries.get(key))
                self._set(self.entries, key, _ABSENT)
                self._set(self.gone, key, _ABSENT)

        if keys:
            self._change((), change)

    def adopt(self) -> None:
        def change() -> None:
            for key, entry in list(self.entries.items()):
                if entry.kind == Kind.FRAME:
                    held = "\n".join(chunks_of(entry.kind, entry.payload)).encode()
                    hold = hold_key(key, entry.version)
                    self._release(self.entries.get(hold))  # of a write on many nodes that was never finished
                    self._set(self.entries, hold, Entry(entry.version, Kind.HOLD, held))
                    self._set(self.entries, key, Entry(entry.version, Kind.SPREAD, entry.payload))

        self._change((), change)

    def chunk_sizes(self) -> dict[str, int]:
        with self._changed:
            self._check_open()
            return {chunk_id: len(self.files[chunk_id]) for chunk_id in self.references}

    def has_chunks(self, chunk_ids: Sequence[str]) -> list[bool]:
        with self._changed:
            self._check_open()
            return [self.references.get(chunk_id, 0) > 0 for chunk_id in chunk_ids]

    # -- waiting ------------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        self._check_open()
        return self._generation

    def wait_for_write(self, since: int, timeout_seconds: float) -> int:
        with self._changed:
            self._counts["waits"] += 1
            self._changed.wait_for(lambda: self._closed or self._generation != since, timeout_seconds)
        return self.generation()

    # -- chunks -------------------------------------------------------------------------------------------------------

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        if first not in ("", self.name):
            raise InvalidOption(f"{first!r} is no live node")
        return (self.name,)

    def chunk_homes(self, chunk_id: str, assigned: Sequence[str]) -> tuple[str, ...]:
        return ()

    def live(self) -> tuple[str, ...]:
        return ()

    def at(self, name: str) -> Place:
        return self

    def stage(self, chunk: Chunk, homes: Sequence[str] = ()) -> Staged:
        return self._stage(chunk.id, b"".join(chunk.pieces))

    def stage_again(self, chunk_id: str, data: pa.Buffer, homes: Sequence[str] = ()) -> Staged:
        return self._stage(chunk_id, data.to_pybytes())

    def discard(self, staged: Sequence[Staged]) -> None:
        self._check_open()
        self._discard(staged)

    def map_frame(self, manifest: Manifest, *, key: str = "") -> MappedFrame:
        return MappedFrame(self.map(manifest.chunk_ids, key=key))

    def map(self, chunk_ids: Sequence[str], *, key: str = "") -> list[pa.Buffer]:
        with self._changed:
            self._check_open()
            for chunk_id in chunk_ids:
                if chunk_id not in self.files:
                    raise NoSuchChunk(chunk_id)
            self._counts["mapped"] += len(set(chunk_ids))
            data = [pa.py_buffer(self.files[chunk_id]) for chunk_id in chunk_ids]
        self.verify(chunk_ids, data, key=key)
        return data

    def verify(
        self, chunk_ids: Sequence[str], data: Sequence[pa.Buffer], *, key: str = "", places: Sequence[str] = ()
    ) -> None:
        self._check_open()
        for chunk_id, mapped in zip(chunk_ids, data, strict=True):
            if identify(mapped) != chunk_id:
                raise Corrupt(f"{key!r}: chunk {chunk_id} is damaged: its hash is not its name")

    def mend(self, staged: Staged) -> None:
        with self._changed:
            self._check_open()
            if not self.references.get(staged.id):
                raise NoSuchChunk(staged.id)
            self.files[staged.id] = self.staged.pop(staged.path)

    def count_read(self, more: ReadCounts) -> None:
        with self._changed:
            self._read = self._read.and_also(more)

    # -- the node itself ----------------------------------------------------------------------------------------------

    def rebalance(self) -> int:
        return 0

    def check(self) -> NodeCheck:
        with self._changed:
            self._check_open()
            named: dict[str, int] = {}
            for entry in self.entries.values():
                for chunk_id in chunks_of(entry.kind, entry.payload):
                    named[chunk_id] = named.get(chunk_id, 0) + 1
            faults = []
            for chunk_id in sorted(named.keys() | self.references.keys() | self.files.keys()):
                counted = self.references.get(chunk_id, 0)
                if counted != named.get(chunk_id, 0):
                    faults.append(Fault(f"{counted} are counted that name this chunk, not {named}", chunk=chunk_id))
                if chunk_id not in self.files:
                    faults.append(Fault("the chunk file is missing", chunk=chunk_id))
                elif identify(self.files[chunk_id]) != chunk_id:
                    faults.append(Fault("the chunk file is damaged: its hash is not its name", chunk=chunk_id))
            size = sum(map(len, self.files.values())) + sum(len(entry.payload) for entry in self.entries.values())
            keys = sum(not key.startswith(MARK) for key in self.entries)
            return NodeCheck(keys, len(self.references), size, tuple(faults))

    def reports(self) -> tuple[Report, ...]:
        return (Report(self.name, 0.0, (*metrics_of(self.statistics()), *self.published)),)

    def publish(self, metrics: Sequence[Metric], *, source: str = "") -> None:
        self.published += metrics

    def statistics(self) -> NodeStatistics:
        keys, frames = self.keys(), self.frames()
        with self._changed:
            return NodeStatistics(
                keys=len(keys),
                frames=len(frames),
                chunks=len(self.references),
                chunk_bytes=sum(len(self.files[chunk_id]) for chunk_id in self.references),
                value_bytes=sum(len(entry.payload) for entry in self.entries.values()),
                gets=self._counts["gets"],
                writes=self._counts["writes"],
                commits=self._counts["commits"],
                waits=self._counts["waits"],
                chunks_written=self._counts["written"],
                chunks_mapped=self._counts["mapped"],
                chunks_verified=0,
                chunks_removed=self._counts["removed"],
                name=self.name,
                **self._read._asdict(),
            )

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self.staged.clear()
            self._changed.notify_all()

    # -- private, all under the lock but the first --------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    def _change(self, what: Sequence[Write] | Sequence[Record], change: Callable[[], None]) -> None:
        """Call `change`; when it raises, nothing has changed, and what was staged for it is removed."""
        with self._changed:
            self._check_open()
            self._undo.clear()
            try:
                change()
                if self._undo:  # what changes nothing takes no room
                    self._check_room()
            except BaseException:
                for table, key, before in reversed(self._undo):
                    if before is _ABSENT:
                        table.pop(key, None)
                    else:
                        table[key] = before
                self._order = None
                for each in what:
                    self._discard(each.chunks)
                raise
            self._generation += 1
            self._counts["commits"] += 1
            self._counts["writes"] += len(what)
            for chunk_id in [chunk_id for table, chunk_id, _ in self._undo if table is self.references]:
                if self.references.get(chunk_id) == 0:
                    del self.references[chunk_id], self.files[chunk_id]
                    self._counts["removed"] += 1
            self._changed.notify_all()

    def _set(self, table: dict[str, Any], key: str, value: Any) -> None:
        before = table.get(key, _ABSENT)
        self._undo.append((table, key, before))
        if value is _ABSENT:
            table.pop(key, None)
        else:
            table[key] = value
        if before is _ABSENT or value is _ABSENT:
            self._order = None

    def _sorted(self) -> list[str]:
        if self._order is None:
            self._order = sorted(self.entries.keys() | self.gone.keys())
        return self._order

    def _record(self, key: str) -> Record | None:
        entry = self.entries.get(key)
        if entry is not None:
            return Record(key, entry.version, entry.kind, entry.payload)
        return Record(key, self.gone[key], Kind.DELETED) if key in self.gone else None

    def _apply(self, write: Write) -> int | Eau2Error:
        key, found = write.key, self.entries.get(write.key)
        refused = refusal(key, write.expect, None if found is None else found.version)
        if refused is not None:
            return refused
        if write.kind == Kind.DELETED and found is None:
            return 0
        if any(staged.path not in self.staged for staged in write.chunks):
            raise StoreUnusable(f"{key!r}: what was staged for it is gone")
        version = 1 + (max(self.version_floor(), self.gone.get(key, 0)) if found is None else found.version)
        self._have(Record(key, version, write.kind, write.payload, write.chunks))
        return version

    def _store(self, record: Record, force: bool, seen: Mapping[str, int]) -> bool:
        known = self._record(record.key)
        if known is not None and known.rank >= record.rank and not force and known.rank != seen.get(record.key):
            return False
        self._have(record)
        return True

    def _have(self, record: Record) -> None:
        key, before = record.key, self.entries.get(record.key)
        for staged in record.chunks:
            if staged.path in self.staged:
                self._set(self.files, staged.id, self.staged.pop(staged.path))
        for chunk_id in chunks_of(record.kind, record.payload):
            if chunk_id not in self.files:
                raise NoSuchChunk(chunk_id)
            self._set(self.references, chunk_id, self.references.get(chunk_id, 0) + 1)
        self._release(before)
        if record.kind != Kind.DELETED:
            self._set(self.entries, key, Entry(record.rank, int(record.kind), record.payload))
            return
        self._set(self.entries, key, _ABSENT)
        self._set(self.gone, key, _ABSENT)
        self._set(self.gone, key, record.rank)
        if len(self.gone) > changes.GONE_MAX:
            for oldest in list(self.gone)[: changes._GONE_STEP]:
                highest = max(self.version_floor(), self.gone[oldest] & VERSION_MASK)
                self._set(self.meta, "version_floor", highest)
                self._set(self.gone, oldest, _ABSENT)

    def _release(self, entry: Entry | None) -> None:
        if entry is not None and entry.kind in NAMING:
            for chunk_id in chunks_of(entry.kind, entry.payload):
                self._set(self.references, chunk_id, self.references[chunk_id] - 1)

    def _stage(self, chunk_id: str, data: bytes) -> Staged:
        with self._changed:
            self._check_open()
            self._check_room()
            self._paths += 1
            path = f"{self.name}/{chunk_id}.{self._paths}"
            self.staged[path] = data
            self._counts["written"] += 1
            return Staged(chunk_id, path)

    def _check_room(self) -> None:
        if self.disk_full:
            raise DiskFull(f"{self.name}: the disk or quota is full, nothing was changed")

    def _discard(self, staged: Iterable[Staged]) -> None:
        for chunk in staged:
            self.staged.pop(chunk.path, None)
