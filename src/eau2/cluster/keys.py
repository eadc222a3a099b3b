"""The cluster's own keys, which no user can have, and what decides a batch."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from eau2.store.nodes import VERSION_MASK, Entry, Kind, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eau2.store.nodes import Replica

VIEW = "\x00v"  # the view that the node knows
DECISION = "\x00b"  # + batch: the records of a write of several keys with several first homes; empty: it is undone
RESERVED = "\x00r"  # + batch: keys that are reserved for it on this very node; a member that is killed learns it again
_HEAD = struct.Struct("<HQBQ")  # length of the key, rank, kind, length of the payload
_PAGE = 1000
_ANSWER_BYTES = 8 << 20  # of values in one answer, and one value more


def decisions_on(node: Replica) -> list[str]:
    """Return the keys of the decisions that `node` has, but for those that were deleted since."""
    return _batches_on(node, DECISION)


def reservations_on(node: Replica) -> list[str]:
    """Return the keys of the reservations that `node` has."""
    return _batches_on(node, RESERVED)


def _batches_on(node: Replica, prefix: str) -> list[str]:
    found: list[str] = []
    after = prefix
    while rows := node.listing(after, _PAGE):
        found += [key for key, _, kind in rows if key.startswith(prefix) and kind == Kind.BYTES]
        after = rows[-1][0]
        if len(rows) < _PAGE or not after.startswith(prefix):
            break
    return found


def first_records(node: Replica, keys: Sequence[str]) -> list[Record]:
    """Return what `node` has under the first of `keys`: as many as may be in one answer, at least one."""
    found: list[Record] = []
    size = 0
    for key in keys:
        for record in node.records([key]).values():
            found.append(record)
            size += len(record.payload)
        if size > _ANSWER_BYTES:
            break
    return found


def encode_records(records: Iterable[Record]) -> bytes:
    """Return `records`, without chunks, as bytes. Not empty, even when there are none."""
    pieces = [b"\x01"]
    for record in records:
        key = record.key.encode()
        pieces += (_HEAD.pack(len(key), record.rank, record.kind, len(record.payload)), key, record.payload)
    return b"".join(pieces)


def decode_records(data: bytes) -> list[Record]:
    """Return the records that `encode_records` encoded; none from nothing."""
    records, place = [], 1
    while place < len(data):
        key_size, rank, kind, size = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        key = data[place : place + key_size].decode()
        place += key_size
        records.append(Record(key, rank, kind, data[place : place + size]))
        place += size
    return records


def without_epoch(entry: Entry) -> Entry:
    """Return `entry` with the version that users see."""
    return Entry(entry.version & VERSION_MASK, entry.kind, entry.payload)
