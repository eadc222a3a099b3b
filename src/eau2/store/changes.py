"""What a transaction does to a node's rows and chunk files. All of it under the write lock, which `writing.py` has.

A row of `entry` that names chunks counts one reference to each, and the last to let go of a chunk leaves its row with
refs = 0, for the second transaction. A row with a large payload has it in `large`. So whatever changes a row looks
first at what it replaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from eau2.errors import Eau2Error, StoreBusy
from eau2.store.chunks import NoSuchChunk
from eau2.store.database import IS_ELSEWHERE, SMALL_MAX, WHOLE
from eau2.store.nodes import VERSION_MASK, Kind, refusal
from eau2.store.puts import plain
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eau2.store.chunks import ChunkFiles
    from eau2.store.nodes import Staged, Write
    from eau2.store.spare import Spare

GONE_MAX = 100_000  # versions of deleted keys that are kept: 10 MB; older ones raise version_floor
_ANY_RANK = (1 << 63) - 1
_GONE_STEP = 16  # how many are forgotten at once: each changes a page, and a delete is to need few on a full disk

NAMING = (int(Kind.FRAME), int(Kind.HOLD))  # rows of these kinds count a reference to each chunk they name
# What a row holds besides itself: whether chunks, and the id of its large payload, if it has one. Nulls without a row.
HOLDS = f"entry.kind in {NAMING}, iif({IS_ELSEWHERE}, entry.payload, null)"
_FIND = f"select version, {HOLDS} from entry where key = ?"
_INSERT = "insert into entry(key, version, kind, payload) values(?, ?, ?, ?)"
_UPDATE = "update entry set version = ?2, kind = ?3, payload = ?4 where key = ?1"
_LAST_VERSION = """select max((select value from meta where name = 'version_floor'),
                              coalesce((select version from gone where key = ?), 0))"""
# In the order asked for.
_FIND_MANY = f"""select coalesce(entry.version, ({_LAST_VERSION.replace("?", "asked.value")})), {HOLDS}
                 from carray(?) as asked left join entry on entry.key = asked.value"""
_VERSIONS_MAX = 100_000  # that are remembered: 15 MB, of keys of usual length
_NONE = -1
_PLAIN = (0, 0, None)  # what HOLDS says of a row of bytes that are in it
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

    def __init__(self, connection: apsw.Connection, files: ChunkFiles, spare: Spare) -> None:
        self._connection = connection
        self._files = files
        self._spare = spare
        cursor = connection.cursor()  # one, so that a query that Ctrl-C cut short ends with the next statement
        self.run: Callable[..., Any] = cursor.execute
        self.run_many: Callable[..., Any] = cursor.executemany
        self.unnamed: list[str] = []  # chunks that the transaction under way has left without a reference
        self.named: list[str] = []  # and those it has given files
        self.removed = 0
        # Of keys whose rows are plain, without chunks or a large payload: as that commit has left them, or, while a
        # transaction is under way, as it has. True as long as nothing but plain puts has changed rows.
        self._versions: dict[str, int] = {}
        self._versions_at = _NONE
        self._changes_put = 0  # of all that the connection counts, up to the last put

    def begin(self, started: int) -> None:
        """A transaction has begun, after the commit that made `started`."""
        if started != self._versions_at or len(self._versions) > _VERSIONS_MAX:
            self._versions.clear()
        self._versions_at = _NONE

    def committed(self, started: int) -> None:
        """The transaction is the commit that made `started`. Not called for one that was rolled back, nor where Ctrl-C
        comes before."""
        self._versions_at = started

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply `writes` in order; see `Node.write`."""
        if len(writes) >= _TOGETHER_MIN and (values := plain(writes)) is not None:
            versions = self.put_all(values)
            return [versions[key] for key in values]
        return [self._apply(write) for write in writes]

    def put_all(self, values: Mapping[str, bytes], *, over_frames: bool = True) -> dict[str, int]:
        """Let `values` be under their keys, whatever is there; return their versions. Where they may not go over
        frames, StoreBusy for one: to remove its files takes time."""
        keys = sorted(values)  # so that each page is visited once
        versions, before = self._versions, self._connection.total_changes()
        if before != self._changes_put:
            versions.clear()
        asked = [key for key in keys if key not in versions] if versions else keys
        if asked:
            found: Any = self.run(_FIND_MANY, (apsw.carray(tuple(asked)),)).fetchall()
            if not over_frames and any(names for _, names, _ in found):
                raise StoreBusy("a frame is to be replaced", hint="give it time")
            read = dict(zip(asked, found, strict=True))
            rows = [(key, (read[key][0] if key in read else versions[key]) + 1, 1, values[key]) for key in keys]
            self.put(rows, [read.get(key, _PLAIN) for key in keys])
        else:
            rows = [(key, versions[key] + 1, 1, values[key]) for key in keys]
            if max(map(len, values.values())) <= SMALL_MAX:  # as `put` does, at a fifth of the cost
                self.run_many(_UPDATE, rows)
            else:
                self.put(rows, [_PLAIN] * len(rows))
        put = {row[0]: row[1] for row in rows}
        versions.update(put)
        self._changes_put = before + len(rows)  # a large payload, or chunks let go of, change more
        return put

    def _apply(self, write: Write) -> Outcome:
        key, kind = write.key, write.kind
        found = self.run(_FIND, (key,)).get
        if write.expect:
            refused = refusal(key, write.expect, None if found is None else found[0])
            if refused is not None:
                return refused
        if kind == Kind.DELETED:
            return 0 if found is None else self._delete(key, *found)
        if write.chunks:
            self.publish(write.chunks)
        if found is None:
            version, statement, place = self.run(_LAST_VERSION, (key,)).get + 1, _INSERT, None
        else:
            version, statement, place = found[0] + 1, _UPDATE, found[2]
            if found[1]:
                self._unname(key)
        self.run(statement, (key, version, kind, self._placed(write.payload, place)))
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
        self.run_many(_UPDATE, replaced)
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

    def remove(self, chunk_ids: Iterable[str]) -> None:
        """Remove those of the chunks that nothing names: files, then rows."""
        for chunk_id in chunk_ids:
            if self.run("select 1 from chunk where id = ? and refs = 0", (chunk_id,)).get:
                self.removed += self._files.remove(chunk_id)
                self.run("delete from chunk where id = ?", (chunk_id,))
