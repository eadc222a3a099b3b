"""What a transaction does to a node's rows and chunk files. All of it under the write lock, which `writing.py` has.

A row of `entry` that names chunks counts one reference to each, and the last to let go of a chunk leaves its row with
refs = 0, for the second transaction. A row with a large payload has it in `large`. So whatever changes a row looks
first at what it replaces. Several plain puts need not change rows at once: `recent.py` has them until they are merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from eau2.errors import Eau2Error, StoreBusy
from eau2.store import recent
from eau2.store.chunks import NoSuchChunk
from eau2.store.database import IS_ELSEWHERE, PAGE_BYTES, SMALL_MAX, WHOLE
from eau2.store.nodes import VERSION_MASK, Kind, refusal
from eau2.store.puts import plain
from eau2.store.recent import UPDATE, Recent
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from eau2.store.chunks import ChunkFiles
    from eau2.store.nodes import Staged, Write
    from eau2.store.spare import Spare

_QUICK_SECONDS = 0.1  # what waits in front of the tree is merged before that takes longer, where a door's loop waits,
_MERGE_SECONDS = 0.5  # and otherwise
GONE_MAX = 100_000  # versions of deleted keys that are kept: 10 MB; older ones raise version_floor
_ANY_RANK = (1 << 63) - 1
_GONE_STEP = 16  # how many are forgotten at once: each changes a page, and a delete is to need few on a full disk

NAMING = (int(Kind.FRAME), int(Kind.HOLD))  # rows of these kinds count a reference to each chunk they name
# What a row holds besides itself: whether chunks, and the id of its large payload, if it has one. Nulls without a row.
HOLDS = f"entry.kind in {NAMING}, iif({IS_ELSEWHERE}, entry.payload, null)"
_FIND = f"select version, {HOLDS} from entry where key = ?"
_INSERT = "insert into entry(key, version, kind, payload) values(?, ?, ?, ?)"
_LAST_VERSION = """select max((select value from meta where name = 'version_floor'),
                              coalesce((select version from gone where key = ?), 0))"""
# In the order asked for.
_FIND_MANY = f"""select coalesce(entry.version, ({_LAST_VERSION.replace("?", "asked.value")})), {HOLDS}
                 from carray(?) as asked left join entry on entry.key = asked.value"""
_NONE = -1
_TOGETHER_MIN = 8  # so many puts of bytes at least: two statements for all cost less than two for each
_NAME_CHUNK = """insert into chunk(id, size, refs, stamp) values(?1, ?2, 1, ?3)
                 on conflict(id) do update set refs = refs + 1, size = ?2, stamp = ?3"""

Outcome = int | Eau2Error


def chunks_of(kind: int, payload: bytes) -> list[str]:
    """Return the chunks that a row counts a reference to, each once. ValueError or KeyError: it makes no sense."""
    if kind == Kind.FRAME:
        return list(dict.fromkeys(Manifest.decode(payload).chunk_ids))
    return payload.decode().split("\n") if kind == Kind.HOLD and payload else []


class Changes:
    """Changes rows and chunk files, inside the transaction that `Writer` has begun. Guarded by its lock."""

    def __init__(self, connection: apsw.Connection, path: Path, files: ChunkFiles, spare: Spare) -> None:
        self._connection = connection
        self._files = files
        self._spare = spare
        cursor = connection.cursor()  # one, so that a query that Ctrl-C cut short ends with the next statement
        self.run: Callable[..., Any] = cursor.execute
        self.run_many: Callable[..., Any] = cursor.executemany
        self.unnamed: list[str] = []  # chunks that the transaction under way has left without a reference
        self.named: list[str] = []  # and those it has given files
        self.removed = 0
        # As the commit `_known_at` has left it, or, while a transaction is under way, as this has. The versions that it
        # knows are true as long as whoever changes rows here says so to it.
        self._recent = Recent(path)
        self._known_at = _NONE
        self._in_front = self._quickly = False

    @property
    def has_batches(self) -> bool:
        """Whether there are some that are not in the tree."""
        return bool(self._recent)

    def begin(self, started: int, *, in_front: bool, quickly: bool = False) -> None:
        """A transaction has begun, after the commit that made `started`.

        in_front: it only puts plain values, which may stay in front of the tree; else it is to find the tree whole.
        quickly: StoreBusy where that takes over 0.1 s.
        """
        front, known_at = self._recent, self._known_at
        self._known_at, self._in_front, self._quickly = _NONE, in_front, quickly
        if started != known_at:
            # Others have written, and if no batch was there, perhaps to the tree; or we have been rolled back.
            if known_at == _NONE or not front:
                front.forget()
            front.look(self.run)
        if not in_front:
            self._merge()

    def committed(self, started: int) -> None:
        """The transaction is the commit that made `started`. Not called for one that was rolled back, nor where Ctrl-C
        comes before."""
        self._known_at = started

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply `writes` in order; see `Node.write`."""
        if len(writes) >= _TOGETHER_MIN and (values := plain(writes)) is not None:
            return list(self.put_all(values).values())
        return [self._apply(write) for write in writes]

    def put_all(self, values: Mapping[str, bytes]) -> dict[str, int]:
        """Let `values` be under their keys, whatever is there; return their versions, in the same order. StoreBusy for
        a frame in a transaction that is to be done `quickly`: to remove its files takes time."""
        if self._in_front:
            if len(values) >= recent.BATCH_MIN and (versions := self._put_in_front(values)) is not None:
                return versions
            self._in_front = False
            self._merge()
        return self._put_in_tree(values)

    def _put_in_front(self, values: Mapping[str, bytes]) -> dict[str, int] | None:
        """As `put_all`, by a batch. None where that cannot be: a value is large, or all are, or a row is not plain."""
        front = self._recent
        sizes = [*map(len, values.values())]
        if max(sizes) > SMALL_MAX or len(sizes) > recent.BATCH_MAX or sum(sizes) > recent.BATCH_BYTES_MAX:
            return None
        if front.is_full or front.merge_seconds(self._tree_bytes) > (
            _QUICK_SECONDS if self._quickly else _MERGE_SECONDS
        ):
            self._merge()
        return None if self._know(values) is None else front.add(self.run, values)

    def merge_if_quick(self) -> None:
        """Have what batches have in the tree, for whoever opens the store next, unless that may take long."""
        if self._recent.merge_seconds(self._tree_bytes) < _MERGE_SECONDS:
            self._merge()

    def _merge(self) -> None:
        front = self._recent
        if front and self._quickly and front.merge_seconds(self._tree_bytes) > 2 * _QUICK_SECONDS:
            raise StoreBusy("many puts are to be merged", hint="give it time")
        front.merge(self.run, self.run_many)

    @property
    def _tree_bytes(self) -> int:
        pages: int = self.run("pragma page_count").get
        return pages * PAGE_BYTES - self._recent.bytes

    def forget_versions(self) -> None:
        """Know no versions any more: rows are changed otherwise than by `write` and `put_all`."""
        self._recent.forget_versions()

    def _know(self, values: Mapping[str, bytes]) -> set[str] | None:
        """Have the last versions of all keys known; return those without a row, or None if not all rows are plain."""
        unknown = self._recent.unknown(values)
        if not unknown:
            return set()
        found = self._found(unknown)
        if any(names or place is not None for _, names, place in found):
            return None
        versions = {key: row[0] for key, row in zip(unknown, found, strict=True)}
        self._recent.know(versions, [names is not None for _, names, _ in found])
        return {key for key, row in zip(unknown, found, strict=True) if row[1] is None}

    def _found(self, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return of each key the last version, and what its row HOLDS. StoreBusy for a frame, if `quickly`."""
        found: list[tuple[Any, ...]] = self.run(_FIND_MANY, (apsw.carray(tuple(keys)),)).fetchall()
        if self._quickly and any(names for _, names, _ in found):
            raise StoreBusy("a frame is to be replaced", hint="give it time")
        return found

    def _put_in_tree(self, values: Mapping[str, bytes]) -> dict[str, int]:
        is_small = max(map(len, values.values())) <= SMALL_MAX
        if is_small and (new := self._know(values)) is not None:
            versions = self._recent.advance(values)
            rows = sorted([(key, version, 1, values[key]) for key, version in versions.items()])
            self.run_many(UPDATE, [row for row in rows if row[0] not in new] if new else rows)
            if new:
                self.run_many(_INSERT, [row for row in rows if row[0] in new])
            return versions
        keys = sorted(values)  # so that each page is visited once
        found = self._found(keys)
        rows = [(key, row[0] + 1, 1, values[key]) for key, row in zip(keys, found, strict=True)]
        self.put(rows, found)
        self._recent.forget_versions()
        versions = {row[0]: row[1] for row in rows}
        return {key: versions[key] for key in values}

    def _apply(self, write: Write) -> Outcome:
        key, kind = write.key, write.kind
        found = self.run(_FIND, (key,)).get
        if write.expect:
            refused = refusal(key, write.expect, None if found is None else found[0])
            if refused is not None:
                return refused
        if kind == Kind.DELETED:
            self._recent.note(key, None)
            return 0 if found is None else self._delete(key, *found)
        if write.chunks:
            self.publish(write.chunks)
        if found is None:
            version, statement, place = self.run(_LAST_VERSION, (key,)).get + 1, _INSERT, None
        else:
            version, statement, place = found[0] + 1, UPDATE, found[2]
            if found[1]:
                self._unname(key)
        self.run(statement, (key, version, kind, self._placed(write.payload, place)))
        is_plain = kind == Kind.BYTES and len(write.payload) <= SMALL_MAX
        self._recent.note(key, version if is_plain else None)
        return int(version)

    def put(self, rows: Sequence[tuple[str, int, int, bytes]], found: Sequence[tuple[Any, ...]]) -> None:
        """Let there be `rows` of key, version, kind and payload, all of different keys. `found`: of each anything, and
        what it HOLDS now."""
        replaced: list[tuple[Any, ...]] = []  # two statements: one that may do either costs a tenth more
        added: list[tuple[Any, ...]] = []
        for row, (_, names, place) in zip(rows, found, strict=True):
            if names:
                self._unname(row[0])
            if place is None and len(row[3]) <= SMALL_MAX:
                (added if names is None else replaced).append(row)
            else:
                placed = *row[:3], self._placed(row[3], place)
                (added if names is None else replaced).append(placed)
        self.run_many(UPDATE, replaced)
        self.run_many(_INSERT, added)

    def _placed(self, payload: bytes, place: int | None) -> bytes | int:
        """Return what a row gets whose payload is to be this: the payload, or its id in `large`, where it is now.

        place: the id that the row has had. What is there is written over: that changes fewer pages than a new one.
        """
        if len(payload) > SMALL_MAX:
            self.run("replace into large(id, payload) values(?, ?)", (place, payload))
            return self._connection.last_insert_rowid() if place is None else place
        if place is not None:
            self.run("delete from large where id = ?", (place,))
        return payload

    def _delete(self, key: str, version: int, names: int, place: int | None) -> int:
        self.release(key, names, place)
        self.bury(key, version + 1)
        return version + 1

    def bury(self, key: str, rank: int) -> None:
        """Let nothing be under `key` since `rank`, and remember that; forget the oldest such when they are too many."""
        self.run("delete from entry where key = ?", (key,))
        self.run("insert or replace into gone(key, version) values(?, ?)", (key, rank))
        oldest, newest = self.run("select (select min(id) from gone), (select max(id) from gone)").get
        if newest - oldest >= GONE_MAX:
            self._forget(oldest + _GONE_STEP, _ANY_RANK)
        elif self._spare.is_lent and oldest < newest:
            # What is remembered may make the file larger, which a full disk has no room for. Where there are many
            # nodes, which ranks above VERSION_MASK tell, it is remembered all the same: other copies would come back.
            self._forget(oldest + 1, VERSION_MASK)

    def _forget(self, end: int, rank_max: int) -> None:
        """Forget what was buried before `end`, of ranks up to `rank_max`: new keys start above those versions."""
        self.run(
            f"""update meta set value = max(value, coalesce(
                   (select max(version & {VERSION_MASK}) from gone where id < ?1 and version <= ?2), 0))
               where name = 'version_floor'""",
            (end, rank_max),
        )
        self.run("delete from gone where id < ?1 and version <= ?2", (end, rank_max))

    def publish(self, chunks: Iterable[Staged]) -> None:
        """Give the staged chunks their names and count one reference each."""
        seen: set[str] = set()
        for staged in chunks:
            if staged.id in seen:  # a frame that holds the same rows twice
                self._files.discard([staged])
                continue
            seen.add(staged.id)
            known = self.run("select stamp from chunk where id = ?", (staged.id,)).get
            self.named.append(staged.id)
            size, mark = self._files.publish(staged, known)
            self.run(_NAME_CHUNK, (staged.id, size, mark))

    def mend(self, staged: Staged) -> None:
        """Give the staged chunk its name where what has it is damaged or gone. NoSuchChunk when no row names it."""
        known = self.run("select stamp from chunk where id = ? and refs > 0", (staged.id,)).get
        if known is None:
            raise NoSuchChunk(self._files.path(staged.id))
        size, mark = self._files.publish(staged, known)
        self.run("update chunk set size = ?, stamp = ? where id = ?", (size, mark, staged.id))

    def share(self, chunk_ids: Iterable[str]) -> None:
        """Count one more reference to each of the chunks, which are here already. NoSuchChunk."""
        for chunk_id in chunk_ids:
            found = self.run("update chunk set refs = refs + 1 where id = ? returning refs", (chunk_id,)).get
            if found is None or self._files.stat(chunk_id) is None:
                raise NoSuchChunk(self._files.path(chunk_id))

    def release(self, key: str, names: int | None, place: int | None) -> None:
        """Let go of what the row of `key`, which is about to go, HOLDS."""
        if names:
            self._unname(key)
        if place is not None:
            self.run("delete from large where id = ?", (place,))

    def _unname(self, key: str) -> None:
        """Take one reference from each chunk that the row of `key`, which is about to go, names."""
        kind, payload = self.run(f"select kind, {WHOLE} from entry where key = ?", (key,)).get
        try:
            ids = chunks_of(kind, payload or b"")
        except (ValueError, KeyError):
            return
        for chunk_id in ids:
            if self.run("update chunk set refs = refs - 1 where id = ? returning refs", (chunk_id,)).get == 0:
                self.unnamed.append(chunk_id)

    def remove(self, chunk_ids: Iterable[str], *, aside: bool = False) -> None:
        """Remove those of the chunks that nothing names: files, then rows. aside: see `freeing.unlink`."""
        for chunk_id in chunk_ids:
            if self.run("select 1 from chunk where id = ? and refs = 0", (chunk_id,)).get:
                self.removed += self._files.remove(chunk_id, aside=aside)
                self.run("delete from chunk where id = ?", (chunk_id,))
