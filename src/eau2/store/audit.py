"""`check`: every checksum of a node computed, every reference compared."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from eau2.errors import Corrupt, Eau2Error, StoreUnusable
from eau2.store.changes import chunks_of
from eau2.store.database import DAMAGE, IS_ELSEWHERE, WHOLE, Patience, connect, meaning
from eau2.store.nodes import Fault, Kind, NodeCheck
from eau2.store.recent import Recent
from eau2.values.key import MARK
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import apsw

    from eau2.store.mapping import Mappings

_ROW = f"select kind, {WHOLE}, iif({IS_ELSEWHERE}, payload, null) from entry where key = ?"
_FAULTS_A_KIND_MAX = 1000  # pages of one damaged database can be very many


class Audit:
    """One run of `check`, on a connection of its own: readers and writers go on meanwhile."""

    def __init__(self, path: Path, mappings: Mappings, chunk_path: Callable[[str], str], *, read_only: bool) -> None:
        self._path = path
        self._mappings = mappings
        self._chunk_path = chunk_path
        self._read_only = read_only
        self._faults: list[Fault] = []
        self._named: Counter[str] = Counter()  # how many manifests name each chunk
        self._key_of: dict[str, str] = {}  # one that does
        self._large: set[int] = set()  # the payloads in a table of their own that keys have
        self._keys = 0
        self._bytes = 0

    def run(self, chunk_files: list[str], settle: Callable[[list[str]], list[str]]) -> NodeCheck:
        """Look at everything. `chunk_files`: the ids of all files; `settle` tells which of those really have no row,
        once nobody is writing."""
        try:
            connection = connect(self._path, read_only=self._read_only, patience=Patience())
        except Eau2Error as error:
            return NodeCheck(0, 0, 0, (Fault(error.message, file=str(self._path)),))
        chunks: dict[str, tuple[int, int]] = {}
        try:
            connection.execute("begin")  # one moment for entries and references
            self._pages(connection)
            self._batches(connection)
            for key in self._all_keys(connection):
                self._entry(connection, key)
            if connection.in_transaction:  # damage ends it: then it is not known what all keys have
                self._payloads(connection)
            chunks = self._chunk_rows(connection)
            if connection.in_transaction:
                connection.execute("rollback")
            for chunk_id, (size, refs) in chunks.items():
                self._chunk(connection, chunk_id, size, refs)
        except DAMAGE as error:
            self._database(error)
        finally:
            connection.close()
        for chunk_id in self._named.keys() - chunks.keys():
            self._report("a manifest names a chunk that the node does not know", chunk_id)
        for chunk_id in settle([chunk_id for chunk_id in chunk_files if chunk_id not in chunks]):
            self._report("a chunk file that no frame names", chunk_id)
        return NodeCheck(self._keys, len(chunks), self._bytes, tuple(self._faults))

    def _pages(self, connection: apsw.Connection) -> None:
        try:
            for (line,) in connection.execute(f"pragma integrity_check({_FAULTS_A_KIND_MAX})").fetchall():
                if line != "ok":
                    self._faults.append(Fault(f"the database is damaged: {line}", file=str(self._path)))
        except DAMAGE as error:
            self._database(error)

    def _batches(self, connection: apsw.Connection) -> None:
        """Have `entry` mean what batches have, too, as long as the transaction lasts."""
        recent = Recent(self._path)
        try:
            recent.look(connection.execute)
            if recent:
                recent.show(connection)
        except (Corrupt, *DAMAGE) as error:
            self._database(error)

    def _all_keys(self, connection: apsw.Connection) -> list[str]:
        """Return the keys; from both ends up to the first damaged page, when there is one."""
        keys: list[str] = []
        try:
            for (key,) in connection.execute("select key from entry order by key"):
                keys.append(key)
        except DAMAGE as error:
            self._database(error)
            behind: list[str] = []
            try:
                for (key,) in connection.execute(
                    "select key from entry where key > ? order by key desc", keys[-1:] or [""]
                ):
                    behind.append(key)
            except DAMAGE:
                self._database(error)
            keys += reversed(behind)
        return keys

    def _entry(self, connection: apsw.Connection, key: str) -> None:
        try:
            row: Any = connection.execute(_ROW, (key,)).get
            if row is None:
                self._faults.append(Fault("its row is not where it should be", key=key, file=str(self._path)))
                return
            kind, payload, place = row
        except DAMAGE as error:
            self._faults.append(Fault(meaning(error, self._path).message, key=key, file=str(self._path)))
            return
        if place is not None:
            if payload is None or place in self._large:
                what = "is not there" if payload is None else "is another key's too"
                self._faults.append(Fault(f"its value {what}", key=key, file=str(self._path)))
                return
            self._large.add(place)
        self._keys += not key.startswith(MARK)
        self._bytes += len(payload)
        try:
            ids = chunks_of(kind, payload)
            if kind == Kind.SPREAD:
                Manifest.decode(payload)
        except (ValueError, KeyError) as error:
            self._faults.append(Fault(f"its manifest makes no sense: {error}", key=key, file=str(self._path)))
            return
        self._named.update(ids)
        for chunk_id in ids:
            self._key_of.setdefault(chunk_id, key)

    def _payloads(self, connection: apsw.Connection) -> None:
        try:
            found = {place for (place,) in connection.execute("select id from large").fetchall()}
        except DAMAGE as error:
            self._database(error)
            return
        if not_had := found - self._large:
            self._faults.append(Fault(f"{len(not_had)} values are there that no key has", file=str(self._path)))

    def _chunk_rows(self, connection: apsw.Connection) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        try:
            for chunk_id, size, refs in connection.execute("select id, size, refs from chunk"):
                found[chunk_id] = size, refs
        except DAMAGE as error:
            self._database(error)
        return found

    def _chunk(self, connection: apsw.Connection, chunk_id: str, size: int, refs: int) -> None:
        named = self._named[chunk_id]
        if refs != named:
            self._report(f"{refs} frames are counted that name this chunk, there are {named}", chunk_id)
        try:
            good = self._mappings.whole(chunk_id)
        except FileNotFoundError:
            try:
                now = connection.execute("select refs from chunk where id = ?", (chunk_id,)).get
            except DAMAGE as error:
                self._database(error)
                return
            if now:  # not removed since we began
                self._report("the chunk file is missing", chunk_id)
            return
        except (OSError, StoreUnusable) as error:
            self._report(f"the chunk file cannot be read: {error}", chunk_id)
            return
        self._bytes += size
        if not good:
            self._report("the chunk file is damaged: its hash is not its name", chunk_id)

    def _database(self, error: BaseException) -> None:
        self._faults.append(Fault(meaning(error, self._path).message, file=str(self._path)))

    def _report(self, what: str, chunk_id: str) -> None:
        self._faults.append(Fault(what, self._key_of.get(chunk_id, ""), chunk_id, self._chunk_path(chunk_id)))
