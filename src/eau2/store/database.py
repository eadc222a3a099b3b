"""The database of a node: how it is opened, its tables, its checksums, and what its errors mean.

    entry     a key with a value: its version, kind and payload (a frame's payload is its manifest). The version is
              a rank (see nodes.py) where the store has many nodes; they also have internal keys, which begin with NUL
    large     the payloads over SMALL_MAX bytes. `entry` has their ids instead: SQLite reads a row whole to compare its
              key, so that a large one would be read by whoever looks for its neighbours
    gone      the last version of a deleted key, so that versions only ever grow; the oldest are forgotten
    chunk     a chunk file: its size, how many manifests and holds name it, and the stamp under which it was last found
              whole
    recent    what was put lately in batches, and is not in `entry` yet: recent.py
    meta      version_floor: the highest version that was forgotten with a `gone` row; new keys start above it

Every page has a checksum (SQLite's `cksumvfs`), which is looked at whenever the page is read, from the file or its log.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import apsw
import apsw.sqlite_extra

from eau2.errors import Corrupt, DiskFull, Eau2Error, FormatTooNew, ReadOnly, StoreBusy, StoreUnusable, failed_call
from eau2.store import recent
from eau2.store.interrupts import heed
from eau2.store.log import require_commits
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from pathlib import Path

Flush = Literal["process", "power"]
Row = tuple[int, int, bytes | int]  # version, kind, payload

BUSY_SECONDS_MAX = 30.0  # a writer waits this long for writers of other processes
USER_VERSION = 3  # of the tables; pragma user_version
_CHECKSUM_VFS = "cksmvfs"
PAGE_BYTES = 2048
_FRAME_BYTES = 24  # of the log, before each page
_CHECKSUM_BYTES = 8  # what cksumvfs keeps at the end of each page
_CACHE_KB = 32 << 10  # a connection, and only as it is used
_LOG_PAGES = 16_000  # 32 MB between checkpoints: a page that many writes change is copied back once
_SHORT_LOG_PAGES = 500  # on a disk with less room than this:
_SHORT_DISK_BYTES = 128 << 20
_PLENTY_BYTES = 512 << 20  # batches may wait to be merged, which writes up to half of it to the log
_LOOK_SECONDS = 0.05  # a look at it is good for
_LARGE_BYTES = 16 << 10  # of payloads; less is not worth a look at a disk with more room than that
_ROW_BYTES_MAX = 4 * (PAGE_BYTES + 24)  # that a row without a large payload usually adds to the log, at most
_COMMIT_BYTES = 64 << 10  # what a commit may write besides
_LOG_BYTES_KEPT = 40 << 20  # of its file, when one that a long snapshot has let grow begins anew
_SNAPSHOT_SECONDS_MAX = 0.1  # a snapshot that is kept for speed ends sooner (reading.py)

SMALL_MAX = 384  # bytes of a payload in `entry`: with a key of usual length a row does not overflow its page
IS_ELSEWHERE = "entry.payload < ''"  # an id, for SQLite has numbers before texts before blobs; `typeof` is slower
WHOLE = f"""case when {IS_ELSEWHERE} then (select payload from large where id = entry.payload)
            else entry.payload end"""

_SCHEMA = f"""
create table entry(
    key text primary key not null, version integer not null, kind integer not null, payload blob not null)
    without rowid;
create table large(id integer primary key, payload blob not null);
create table gone(id integer primary key, key text not null unique, version integer not null);
create table chunk(
    id text primary key not null, size integer not null, refs integer not null, stamp text not null) without rowid;
create index chunk_unnamed on chunk(id) where refs = 0;
create index entry_expiring on entry(key) where kind = 5;
create table meta(name text primary key not null, value integer not null) without rowid;
insert into meta values('version_floor', 0);
{recent.SCHEMA}
pragma user_version = {USER_VERSION};
"""

_vfs_lock = threading.Lock()
_opening = threading.Lock()  # guards the folders: device and inode, in which connections are, and whose those are
_folders: weakref.WeakKeyDictionary[apsw.Connection, tuple[tuple[int, int], int]] = weakref.WeakKeyDictionary()
os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)


class Patience:
    """What a connection does while another process holds the lock: short sleeps, up to a limit, or until `stop`."""

    def __init__(self) -> None:
        self.seconds = BUSY_SECONDS_MAX
        self.stopped = False
        self._since = 0.0

    def stop(self) -> None:
        """Give up at once, now and later: the node is closing."""
        self.stopped = True

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._since = now
        if self.stopped or now - self._since >= self.seconds:
            return False
        heed()
        time.sleep(0.00005 if tries < 20 else 0.0002 if tries < 40 else 0.001 if tries < 100 else 0.002)
        return True


class Room:
    """The room on the disk of the database at `path`, and what needs it: pages that only the log has yet take theirs in
    the file when they are copied back. Were there none, the log would only grow, by deletes too, until it cannot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free, self._looked, self._changed = 0, 0.0, 0

    def bytes(self) -> int:
        """Return how much is free. 1 us."""
        found = os.statvfs(self._path)
        free = found.f_bavail * found.f_frsize
        self._free, self._looked = free, time.monotonic()
        return free

    @property
    def is_short(self) -> bool:
        """Whether there is so little that each write is to look; as it was found a moment ago."""
        return self._lately() < _SHORT_DISK_BYTES

    @property
    def is_plenty(self) -> bool:
        """Whether there is so much that batches of puts may wait to be merged; as it was found a moment ago."""
        return self._lately() >= _PLENTY_BYTES

    def _lately(self) -> int:
        is_short = self._free < _SHORT_DISK_BYTES
        return self.bytes() if is_short or time.monotonic() - self._looked > _LOOK_SECONDS else self._free

    def lacks(self, connection: apsw.Connection) -> int:
        """Return how many bytes the file is to grow, with what the transaction under way has written. 4 us."""
        pages: int = connection.execute("pragma page_count").get
        return max(0, pages * PAGE_BYTES - os.stat(self._path).st_size)

    def can_copy(self, connection: apsw.Connection) -> bool:
        """Whether all that the log has can be copied back: cut short, that would take the last room for nothing."""
        lacks = self.lacks(connection)
        return not lacks or lacks <= self.bytes()

    def require_log(self, connection: apsw.Connection, payload_bytes: int) -> None:
        """Raise DiskFull where payloads of so many bytes are too large for the log, before they are written there."""
        if payload_bytes > _LARGE_BYTES:
            self._require(self.lacks(connection) + payload_bytes)

    def require_copies(self, connection: apsw.Connection) -> None:
        """Raise DiskFull unless the transaction under way, which is about to be committed, can be copied back then."""
        changed = connection.total_changes()
        rows, self._changed = changed - self._changed, changed
        if not self.is_short:
            return
        lacks = self.lacks(connection)
        # How much of the room the log will take is only known when it is there; that it is enough is often sure before.
        if lacks and lacks + (rows + 8) * _ROW_BYTES_MAX + _LARGE_BYTES > self.bytes():
            connection.cache_flush()
            self._require(self.lacks(connection) + _COMMIT_BYTES)

    def require_place(self, connection: apsw.Connection) -> None:
        """Raise DiskFull unless what is written, in the transaction too, has its place in the file as it is."""
        if self.lacks(connection):
            raise meaning(apsw.FullError(), self._path)

    def _require(self, size: int) -> None:
        if size > self.bytes():
            raise meaning(apsw.FullError(), self._path)


class CopyingBack:
    """Copies a long log back into the database. SQLite calls this after each commit, with what the log has.

    The log begins anew once all is copied and nobody reads from it. Snapshots that other processes keep while they read
    and we write would let that never be: each time it has grown by an eighth, we wait for their end. (`started` has
    moved, so nobody trusts one.) Not after each commit, for copying flushes.
    Where the disk is short the log is.
    Knows no connection: a cycle through what SQLite calls is never collected.
    """

    def __init__(self, path: Path, room: Room, patience: Patience) -> None:
        self._log = path.with_name(path.name + "-wal")
        self._room = room
        self._patience = patience
        self._next = _SHORT_LOG_PAGES
        self.log_bytes = 0  # that are used, after the last commit of this connection

    def __call__(self, connection: apsw.Connection, _: str, pages: int) -> int:
        self.log_bytes = pages * (PAGE_BYTES + _FRAME_BYTES)
        if pages < _SHORT_LOG_PAGES:
            self._next = _SHORT_LOG_PAGES
        elif pages >= self._next:
            least = _SHORT_LOG_PAGES if self._room.bytes() < _SHORT_DISK_BYTES else _LOG_PAGES
            if pages < least:
                self._next = min(pages + _SHORT_LOG_PAGES, least)
            else:
                self._next = pages + pages // 8
                waits = pages >= least + least // 8
                self._copy(connection, apsw.SQLITE_CHECKPOINT_RESTART if waits else apsw.SQLITE_CHECKPOINT_PASSIVE)
        return apsw.SQLITE_OK

    def shorten(self, connection: apsw.Connection) -> None:
        """Copy the log back now, and give back what it takes, if there is room and nobody reads from it."""
        with contextlib.suppress(OSError):
            if os.stat(self._log).st_size:
                self._copy(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _copy(self, connection: apsw.Connection, mode: int) -> None:
        seconds = self._patience.seconds
        with contextlib.suppress(apsw.Error, OSError):  # the commit is done; a later one tries again
            try:
                self._patience.seconds = _SNAPSHOT_SECONDS_MAX
                if self._room.can_copy(connection):
                    connection.wal_checkpoint(mode=mode)
            finally:
                self._patience.seconds = seconds


def create(path: Path) -> None:
    """Make an empty database at `path`, where nothing is. The caller moves it to its place, whole."""
    connection = apsw.Connection(str(path), vfs=_checksum_vfs())
    try:
        connection.execute(f"pragma page_size = {PAGE_BYTES}")
        connection.execute("pragma synchronous = off")  # the caller flushes it, once
        connection.reserve_bytes(None, _CHECKSUM_BYTES)
        connection.execute("vacuum")  # only so do the bytes become part of the file
        connection.execute(_SCHEMA)
        connection.execute("pragma journal_mode = wal")
    finally:
        connection.close()


def connect(path: Path, *, read_only: bool = False, patience: Patience) -> apsw.Connection:
    """Return a connection to the database at `path`. Raises what `meaning` says, FormatTooNew and Corrupt."""
    connection: apsw.Connection | None = None
    try:
        connection = _first_looking(path, read_only)
        connection.set_busy_handler(patience)
        run = connection.execute
        version = run("pragma user_version").get
        if str(run("pragma checksum_verification").get) != "1":  # a text, known once the first page has been read
            raise Corrupt(f"{path} has no page checksums", hint="restore the file from a copy")
        if version > USER_VERSION:
            raise FormatTooNew(f"{path} has tables of version {version}, this eau2 knows {USER_VERSION}")
        if version < USER_VERSION:
            what = f"tables of version {version}, of before the first release" if version else "no tables of eau2"
            raise Corrupt(f"{path} holds {what}", hint="restore the file from a copy, or load the store anew")
        run(f"pragma cache_size = -{_CACHE_KB}")
        run(f"pragma journal_size_limit = {_LOG_BYTES_KEPT}")
        run("pragma temp_store = memory")  # a full disk can be read
        run("pragma synchronous = normal")  # see Writer: commits are flushed there, if at all
        return connection
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, DAMAGE):
            raise meaning(error, path) from error
        if isinstance(error, OSError) and not isinstance(error, Eau2Error):
            raise failed_call(error, path) from error
        raise


def _first_looking(path: Path, read_only: bool) -> apsw.Connection:
    """As `_open`. The first connection of a process looks at what killed ones left, before SQLite does.

    StoreClosed in a forked child of one that had it open: SQLite would take the locks of the parent for the child's,
    and the parent's close would remove the log that the child writes.
    """
    status = os.stat(path.parent)
    folder, process = (status.st_dev, status.st_ino), os.getpid()
    with _opening:
        known = [_folders[other] for other in apsw.connections() if other in _folders]
        open_by = {opener for where, opener in known if where == folder}
        if open_by - {process}:
            raise closed(forked=True)
        if not open_by:
            require_commits(path)
        connection = _open(path, read_only)
        _folders[connection] = folder, process
    return connection


def _open(path: Path, read_only: bool) -> apsw.Connection:
    if not read_only:
        return apsw.Connection(str(path), apsw.SQLITE_OPEN_READWRITE, vfs=_checksum_vfs())
    # SQLite needs the log's index to read a database that others may write. Where it cannot make one, the database
    # can only be read as a file that does not change: right as long as no log is there.
    log = path.with_name(path.name + "-wal")
    immutable = not (log.exists() and log.stat().st_size)
    uri = f"file:{quote(str(path))}?mode=ro" + ("&immutable=1" if immutable else "")
    return apsw.Connection(uri, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs=_checksum_vfs())


def _checksum_vfs() -> str:
    """Register SQLite's checksum VFS in this process, once. Other users of apsw keep the default they have."""
    with _vfs_lock:
        names = apsw.vfs_names()
        if _CHECKSUM_VFS not in names:
            carrier = apsw.Connection(":memory:")
            try:
                apsw.sqlite_extra.load(carrier, "cksumvfs")
            except Exception as error:  # which one depends on the build: absent, or a library that cannot be loaded
                raise StoreUnusable(
                    f"this apsw ({apsw.apsw_version()}) has no cksumvfs: {error}",
                    hint="install apsw from its wheel: pip install --only-binary apsw apsw",
                ) from error
            finally:
                carrier.close()
            apsw.set_default_vfs(names[0])
    return _CHECKSUM_VFS


# What SQLite raises, and what Python raises for a row that makes no sense.
DAMAGE = (apsw.Error, UnicodeDecodeError, TypeError, OverflowError)
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError, UnicodeDecodeError, TypeError, OverflowError)
_FULL_EXTENDED = (apsw.SQLITE_IOERR_SHMSIZE,)  # the log's index could not grow


def lost(path: Path, key: str) -> Corrupt:
    """Return the error for a key whose large payload is not there."""
    return Corrupt(f"{key!r}: {path} has lost its value", hint="run `eau2 check`, and restore the file from a copy")


def meaning(error: BaseException, path: Path, key: str = "") -> Eau2Error:
    """Return the error of eau2 that `error`, raised by the database at `path`, stands for."""
    where = f"{key!r}: {path}" if key else f"{path}"
    extended = getattr(error, "extendedresult", 0)
    if isinstance(error, Eau2Error):
        return error
    if isinstance(error, apsw.FullError) or extended in _FULL_EXTENDED:
        return DiskFull(f"{where}: the disk or quota is full, nothing was changed", hint="free some space, then again")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreBusy(
            f"{where}: another process has held the write lock for over {BUSY_SECONDS_MAX:g} seconds",
            hint="end the process that writes, or try again",
        )
    if isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError)):
        return ReadOnly(f"{where} cannot be written", hint="mount or own the directory so that it can be")
    if isinstance(error, _DAMAGED) or (isinstance(error, apsw.IOError) and extended == apsw.SQLITE_IOERR_DATA):
        return Corrupt(f"{where} is damaged: {error}", hint="run `eau2 check`, and restore the file from a copy")
    if isinstance(error, apsw.IOError) and extended in (apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS):
        return Corrupt(f"{where} is damaged: {error}", hint="run `eau2 check`, and restore the file from a copy")
    return StoreUnusable(f"{where} cannot be read or written: {error}", hint="see whether the disk is healthy")
