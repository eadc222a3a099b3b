"""What was put lately: batches of plain puts, each a row as it came, in front of the tree of entries.

    recent    id and body of each batch, in the order of their commits. The first row is no batch: it is as old as the
              last merge, and its body is empty

To put many random keys into the tree changes nearly a page for each, now in the log and later in the file; a batch is
written once. What many batches have is merged into the tree at once, in the order of the keys: each page changes once,
and a key that was put several times is written there once. So `entry` alone does not have what was put lately:

* Who looks for keys has the batches in memory, as the transaction of the look sees them (`Recent.look`). Whether
  there may be any is known without a look: `Generation.has_batches`.
* Who asks the table anything else has them merged before, or where that cannot be sees a view (`show`).
* A write that is no plain put merges first, in its own transaction.
"""

from __future__ import annotations

import contextlib
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from eau2.errors import Corrupt
from eau2.store.nodes import Entry, new_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    import apsw
    from numpy.typing import NDArray

    Numbers = NDArray[np.integer[Any]]

SCHEMA = """
create table recent(id integer primary key, body blob not null);
insert into recent values(1, x'');
"""
BATCH_MIN = 64  # keys that are put together; to put fewer into the tree at once costs less than a batch and a merge
BATCH_MAX = 1 << 15  # keys; more would have to be merged soon anyway
BATCH_BYTES_MAX = 8 << 20  # of their values
_KEYS_MAX = 1 << 17  # whose versions are known without a look, or that wait to be merged
_BYTES_MAX = 64 << 20  # of batches in memory; on the disk they take less
_KEY_SECONDS, _BYTE_SECONDS = 2e-6, 20e-9  # to merge a key, and a byte of its value, as measured
_TREE_BYTES = 128 << 20  # in a larger database keys share fewer pages:
_FAR_KEY_SECONDS = 25e-6
_PACKED = Struct("<IQ")  # size of the body; its hash, for the codec may take what was cut for whole
_SIZE_MAX = 1 << 30  # more is damage
_CODEC = pa.Codec("lz4_raw")  # 0.05 to 0.1 us a key, and saves twice that and more
_HEADER = Struct("<II")  # keys; bytes of them with what is between them
_BETWEEN = "\n"  # no key has it: it is a control character
_NONE = -1
_VERSION, _BATCH, _START, _END, _IN_TREE = range(5)  # columns
_FEW = 16  # so few keys cost less one by one

_ENDS = "select (select id from recent order by id limit 1), (select id from recent order by id desc limit 1)"
_BATCHES = "select id, body from recent where id > ?"
_ADD = "insert into recent(id, body) values(?, ?)"
UPDATE = "update main.entry set version = ?2, kind = ?3, payload = ?4 where key = ?1"
_PUT = """insert into main.entry(key, version, kind, payload) values(?, ?, ?, ?)
          on conflict(key) do update set version = excluded.version, kind = excluded.kind, payload = excluded.payload"""
_VIEW = """
create temp table put(key text primary key not null, version integer, kind integer, payload blob) without rowid;
create temp view entry as
    select * from put union all select * from main.entry where key not in (select key from put);
"""


class Recent:
    """The batches that one connection has seen. For one thread at a time.

    A key has a number, its place in `_keys`; that row of `_table` is what is known of it: version, batch (or none),
    where in its body the value begins and ends, and whether it is sure to be in the tree. So one more batch costs a
    look for each key, and all else is done for many at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = np.empty((0, 5), np.int64)
        self.forget()

    def __bool__(self) -> bool:
        """Whether there are batches that are not merged."""
        return bool(self._bodies)

    def __contains__(self, key: str) -> bool:
        return key in self._numbers

    def forget(self) -> None:
        """Know nothing: what was known was rolled back, or is of another moment."""
        self.forget_versions()
        self._bodies: list[bytes] = []
        self.bytes = 0  # of all batches
        self._waiting = self._waiting_bytes = 0  # keys of which one has a value; the last values of all
        self._merged = self._last = _NONE  # ids of the first row and the last

    # -- what is there ------------------------------------------------------------------------------------------------

    def look(self, run: Callable[..., Any]) -> None:
        """Have what the transaction of `run` sees. 1.5 us, and 0.2 a key of what came since the last look. Corrupt."""
        merged, last = run(_ENDS).get
        if last == self._last and merged == self._merged:
            return
        if merged != self._merged:
            self.forget()
        try:
            for number, row in run(_BATCHES, (merged if self._last == _NONE else self._last,)).fetchall():
                self._take(number, row)
        except BaseException:  # Ctrl-C too: half of what is known of a key must not stay
            self.forget()
            raise
        self._merged, self._last = merged, last

    def _take(self, number: int, row: bytes) -> None:
        try:
            batch = decoded(unpacked(row))
        except (StructError, ValueError, OSError) as damage:
            raise Corrupt(
                f"{self._path}: batch {number} of puts makes no sense: {damage}",
                hint="run `eau2 check`, and restore the file from a copy",
            ) from damage
        self.know({key: 0 for key in batch.keys if key not in self._numbers}, in_tree=False)
        self._have(batch, self._places(batch.keys))

    def get(self, key: str) -> Entry | None:
        """Return what a batch has under `key`. 0.6 us."""
        number = self._numbers.get(key)
        if number is None:
            return None
        version, batch, start, end, _ = self._table[number].tolist()
        return None if batch == _NONE else new_entry(Entry, (version, 1, self._bodies[batch][start:end]))

    def get_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Return what batches have under those of `keys` of which one has. 0.5 us a key."""
        numbers = self._numbers
        some = {key: numbers[key] for key in keys if key in numbers}
        return {key: entry for key, entry in zip(some, self._entries([*some.values()]), strict=True) if entry}

    def _entries(self, numbers: list[int]) -> list[Entry | None]:
        bodies = self._bodies
        return [
            None if batch == _NONE else new_entry(Entry, (version, 1, bodies[batch][start:end]))
            for version, batch, start, end, _ in self._table[numbers].tolist()
        ]

    def show(self, connection: apsw.Connection) -> None:
        """Have `entry` mean all, in the transaction of `connection`, which has looked, until that is rolled back. 2 us
        a key."""
        connection.execute(_VIEW)
        for in_tree in (False, True):
            connection.executemany("insert into put values(?, ?, ?, ?)", self._rows(in_tree=in_tree))

    # -- what is put --------------------------------------------------------------------------------------------------

    def unknown(self, keys: Collection[str]) -> list[str]:
        """Return those of `keys` whose last version is not known, in order."""
        numbers, table = self._numbers, self._table
        if len(keys) >= _FEW:
            with contextlib.suppress(KeyError):
                if (table[self._places(keys), _VERSION] != _NONE).all():
                    return []
        return sorted([key for key in keys if key not in numbers or table[numbers[key], _VERSION] == _NONE])

    def know(self, versions: Mapping[str, int], in_tree: bool | list[bool]) -> None:
        """Know the last versions of keys whose rows are plain, and which are sure to have one."""
        numbers = self._numbers
        new = [key for key in versions if key not in numbers]
        self._keys += new
        numbers.update(zip(new, range(len(numbers), len(numbers) + len(new)), strict=True))
        known = len(self._table)
        if len(numbers) > known:
            grown = np.full((max(2 * len(numbers), 1024), 5), _NONE, np.int64)
            grown[:known] = self._table
            self._table = grown
        at = self._places(versions)
        self._table[at, _VERSION] = [*versions.values()]
        self._table[at, _IN_TREE] = in_tree

    def note(self, key: str, version: int | None) -> None:
        """The key has this version in the tree now, in a plain row; or it is not known, or the row is not plain."""
        number = self._numbers.get(key)
        if number is not None:
            self._table[number, _VERSION] = _NONE if version is None else version
            self._table[number, _IN_TREE] = True

    def advance(self, keys: Collection[str]) -> dict[str, int]:
        """Return the next versions of `keys`, all of which are known: they are the last ones now."""
        table = self._table
        if len(keys) < _FEW:
            places = [self._numbers[key] for key in keys]
            for number in places:
                table[number, _VERSION] += 1
            return {key: int(table[number, _VERSION]) for key, number in zip(keys, places, strict=True)}
        at = self._places(keys)
        versions = table[at, _VERSION] + 1
        table[at, _VERSION] = versions
        return dict(zip(keys, versions.tolist(), strict=True))

    def add(self, run: Callable[..., Any], values: Mapping[str, bytes]) -> dict[str, int]:
        """Write a batch, in the transaction of `run`, which has looked; return the new versions. All keys are known.
        0.6 us a key."""
        at = self._places(values)
        batch = encoded(values, self._table[at, _VERSION] + 1)
        run(_ADD, (self._last + 1, packed(batch.body)))
        self._last += 1
        self._have(batch, at)
        return dict(zip(values, batch.versions.tolist(), strict=True))

    def _places(self, keys: Collection[str]) -> Numbers:
        return np.fromiter(map(self._numbers.__getitem__, keys), np.int64, len(keys))

    def _have(self, batch: Batch, at: Numbers) -> None:
        rows = self._table[at]
        waited = rows[:, _BATCH] != _NONE
        self._waiting += len(at) - int(np.count_nonzero(waited))
        self._waiting_bytes += int(batch.sizes.sum() - ((rows[:, _END] - rows[:, _START]) * waited).sum())
        rows[:, _VERSION], rows[:, _BATCH] = batch.versions, len(self._bodies)
        rows[:, _START], rows[:, _END] = batch.ends - batch.sizes, batch.ends
        self._table[at] = rows
        self._bodies.append(batch.body)
        self.bytes += len(batch.body)

    # -- what is merged -----------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether all is to be merged, however long that takes."""
        return self._waiting > _KEYS_MAX or self.bytes > _BYTES_MAX

    def merge_seconds(self, tree_bytes: int) -> float:
        """Return about how long it takes to merge all into a database of this size."""
        key_seconds = _KEY_SECONDS if tree_bytes < _TREE_BYTES else _FAR_KEY_SECONDS
        return self._waiting * key_seconds + self._waiting_bytes * _BYTE_SECONDS

    def merge(self, run: Callable[..., Any], run_many: Callable[..., Any]) -> None:
        """Have all in the tree, in the transaction of `run`, which has looked. 2.5 us a key. Versions stay known, of
        so many keys as there may be."""
        if self._bodies:
            run_many(UPDATE, self._rows(in_tree=True))
            run_many(_PUT, self._rows(in_tree=False))
            run("delete from recent where id < ?", (self._last,))
            run("update recent set body = x''")
            self._merged = self._last
            self._bodies, self.bytes, self._waiting, self._waiting_bytes = [], 0, 0, 0
            self._table[self._table[:, _BATCH] != _NONE, _IN_TREE] = True
            self._table[:, _BATCH] = _NONE
        if len(self._numbers) > _KEYS_MAX:
            self.forget_versions()

    def forget_versions(self) -> None:
        """Know no versions any more, while no batch is there."""
        self._numbers: dict[str, int] = {}
        self._keys: list[str] = []
        self._table = np.empty((0, 5), np.int64)

    def _rows(self, *, in_tree: bool) -> Iterable[tuple[str, int, int, bytes]]:
        """Return key, version, kind and value of what batches have and is sure to be in the tree, or is not, in the
        order of the keys."""
        bodies, keys, table = self._bodies, self._keys, self._table
        some = np.flatnonzero((table[:, _BATCH] != _NONE) & ((table[:, _IN_TREE] == 1) == in_tree))
        found = sorted(zip([keys[number] for number in some.tolist()], table[some].tolist(), strict=True))
        return ((key, version, 1, bodies[batch][start:end]) for key, (version, batch, start, end, _) in found)


class Batch(NamedTuple):
    """Some keys, and of each its version and where in the body its value ends, and how large it is."""

    keys: Collection[str]
    versions: Numbers
    ends: Numbers
    sizes: Numbers
    body: bytes


def encoded(values: Mapping[str, bytes], versions: Numbers) -> Batch:
    """Return the batch of `values`. Its body: how many keys, how long they are, their versions, sizes, keys, values."""
    text = _BETWEEN.join(values).encode()
    sizes = np.fromiter(map(len, values.values()), np.uint32, len(values))
    head = _HEADER.pack(len(values), len(text)), versions.tobytes(), sizes.tobytes(), text
    body = b"".join((*head, *values.values()))
    return Batch(values.keys(), versions, sizes.cumsum(dtype=np.int64) + sum(map(len, head)), sizes, body)


def decoded(body: bytes) -> Batch:
    """Return the batch of `body`. ValueError, struct.error: it makes no sense."""
    count, length = _HEADER.unpack_from(body)
    versions = np.frombuffer(body, np.int64, count, at := _HEADER.size)
    sizes = np.frombuffer(body, np.uint32, count, at := at + versions.nbytes)
    at += sizes.nbytes
    keys = body[at : at + length].decode().split(_BETWEEN)
    ends = sizes.cumsum(dtype=np.int64) + (at + length)
    if len(set(keys)) != count or not count or ends[-1] != len(body):
        raise ValueError(f"{count} keys in {len(body)} bytes")
    return Batch(keys, versions, ends, sizes, body)


def packed(body: bytes) -> bytes:
    """Return what a row has of the batch of `body`."""
    compressed: bytes = _CODEC.compress(body, asbytes=True)
    return _PACKED.pack(len(body), xxh3_64_intdigest(body)) + compressed


def unpacked(row: bytes) -> bytes:
    """Return the body that is in a row. ValueError, OSError, struct.error: it makes no sense."""
    size, digest = _PACKED.unpack_from(row)
    if size > _SIZE_MAX:
        raise ValueError(f"{size} bytes")
    body: bytes = _CODEC.decompress(memoryview(row)[_PACKED.size :], decompressed_size=size, asbytes=True)
    if xxh3_64_intdigest(body) != digest:
        raise ValueError("its hash is another")
    return body
