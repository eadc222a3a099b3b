"""A node's rows as records, ranks and deletions included: how they are read, had as they are, and forgotten.

A key has a row of `entry`, or one of `gone`, or both: then the first counts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import apsw

from eau2.errors import Corrupt
from eau2.store.changes import HOLDS, NAMING, chunks_of
from eau2.store.database import WHOLE, lost
from eau2.store.nodes import Kind, Record
from eau2.values.key import hold_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eau2.store.changes import Changes, Outcome
    from eau2.store.reading import Reader
    from eau2.store.writing import Writer

# Keys are given as bytes: SQLite takes a text in an array to end at its first NUL, with which internal keys begin.
_ASKED = """carray(?) as asked left join entry on entry.key = cast(asked.value as text)
            left join gone on gone.key = cast(asked.value as text)"""
_RANKS = f"select coalesce(entry.version, gone.version), {HOLDS} from {_ASKED}"
_RECORDS = f"select coalesce(entry.version, gone.version), coalesce(entry.kind, 0), {WHOLE} from {_ASKED}"
_LISTING = """select key, version, kind from entry where key > ?1
              union all
              select key, version, 0 from gone
              where key > ?1 and not exists (select 1 from entry where entry.key = gone.key)
              order by key limit ?2"""
_NAMED = "select coalesce(chunk.refs, 0) from carray(?) as asked left join chunk on chunk.id = asked.value"


def records(reader: Reader, keys: Sequence[str]) -> dict[str, Record]:
    """As `Node.records`. 2 us a key when there are many."""
    rows = reader.entries(_RECORDS, (_array(keys),)) if keys else []
    found = {}
    for key, (rank, kind, payload) in zip(keys, rows, strict=True):
        if payload is None and kind != Kind.DELETED:
            raise lost(reader.path, key)
        if rank is not None:
            found[key] = Record(key, rank, kind, payload or b"")
    return found


def listing(reader: Reader, after: str, limit: int) -> list[tuple[str, int, int]]:
    """As `Node.listing`."""
    return reader.entries(_LISTING, (after, limit))


def version_floor(reader: Reader) -> int:
    """As `Node.version_floor`."""
    ((floor,),) = reader.rows("select value from meta where name = 'version_floor'")
    return int(floor)


def has_chunks(reader: Reader, chunk_ids: Sequence[str]) -> list[bool]:
    """As `Node.has_chunks`."""
    rows = reader.rows(_NAMED, (apsw.carray(tuple(chunk_ids)),)) if chunk_ids else []
    return [refs > 0 for (refs,) in rows]


def store(writer: Writer, given: Sequence[Record], *, force: bool, seen: Mapping[str, int]) -> None:
    """As `Node.store`. What names chunks has a transaction of its own: its failure must not be that of others."""

    def apply(several: Sequence[Record]) -> list[Outcome]:
        writer.changes.forget_versions()
        if len({record.key for record in several}) == len(several):
            return _store(writer.changes, several, force, seen)
        return [outcome for record in several for outcome in _store(writer.changes, [record], force, seen)]

    if given:
        names = any(record.kind in NAMING for record in given)
        writer.write(given, apply, alone=names, undoes=force and not names)


def _store(changes: Changes, several: Sequence[Record], force: bool, seen: Mapping[str, int]) -> list[Outcome]:
    """Have records of different keys; return 0 for each that was passed over, else 1."""
    found = changes.run(_RANKS, (_array([record.key for record in several]),)).fetchall()
    outcomes: list[Outcome] = []
    rows, held = [], []
    for record, (rank, *holds) in zip(several, found, strict=True):
        if rank is not None and rank >= record.rank and not force and rank != seen.get(record.key):
            outcomes.append(0)
            continue
        outcomes.append(1)
        if record.kind in NAMING:
            staged = {chunk.id: chunk for chunk in record.chunks if os.path.exists(chunk.path)}  # a crash sweeps them
            changes.publish(staged.values())
            changes.share(chunk for chunk in chunks_of(record.kind, record.payload) if chunk not in staged)
        if record.kind == Kind.DELETED:
            changes.release(record.key, *holds)
            changes.bury(record.key, record.rank)
        else:
            rows.append((record.key, record.rank, record.kind, record.payload))
            held.append((rank, *holds))
    changes.put(rows, held)
    return outcomes


def erase(writer: Writer, keys: Sequence[str], seen: Mapping[str, int]) -> None:
    """As `Node.erase`."""
    changes = writer.changes

    def change() -> None:
        changes.forget_versions()
        for key in keys:
            ((rank, *holds),) = changes.run(_RANKS, (_array([key]),)).fetchall()
            if key in seen and rank != seen[key]:
                continue
            changes.release(key, *holds)
            changes.run("delete from entry where key = ?", (key,))
            changes.run("delete from gone where key = ?", (key,))

    if keys:
        writer.transaction(change, makes_room=True)


def adopt(writer: Writer) -> None:
    """As `Node.adopt`."""
    changes = writer.changes

    def change() -> None:
        changes.forget_versions()
        frames = changes.run("select key, version from entry where kind = ?", (Kind.FRAME,)).fetchall()
        for key, rank in frames:
            payload, hold = changes.run(f"select {WHOLE} from entry where key = ?", (key,)).get, hold_key(key, rank)
            try:
                held = "\n".join(chunks_of(Kind.FRAME, payload or b"")).encode()
            except (ValueError, KeyError) as error:
                raise Corrupt(f"{key!r}: its manifest makes no sense: {error}", hint="run `eau2 check`") from error
            found = changes.run(_RANKS, (_array([hold]),)).fetchall()
            changes.put([(hold, rank, Kind.HOLD, held)], found)  # over one of a write that was never finished
            changes.run("update entry set kind = ? where key = ?", (Kind.SPREAD, key))

    writer.transaction(change)


def _array(keys: Sequence[str]) -> Any:
    return apsw.carray(tuple([key.encode() for key in keys]))
