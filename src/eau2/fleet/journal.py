"""What was run on a node: so that nothing is run twice, and everybody can see who ran what.

<node>/runs.ndjson    a line when a run begins, which is on the medium before the run is, and a line when it has ended

It is bounded: the oldest runs go. A run as old as those is not begun any more, as nobody knows whether it was.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eau2.errors import StoreClosed, failed_call
from eau2.fleet.run import Ended

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eau2.fleet.run import Run, State

RUNS_MAX = 10_000  # about 4 MB
_TEXT_CHARACTERS_MAX = 1000
_FILE = "runs.ndjson"


@dataclass(frozen=True, slots=True)
class Record:
    """A run as one node knows it. `text` is what was run, cut after 1,000 characters; `sha256` is of all of it: of a
    command's arguments, a script's content, or the names and contents of files."""

    id: str
    time: float  # Unix time at the caller, when it was made
    user: str
    host: str
    kind: str  # command, script, push
    text: str
    sha256: str
    nodes: int  # how many were asked
    state: State | None = None  # None: it has not ended, or the node ended before it
    code: int | None = None
    seconds: float = 0.0
    why: str = ""
    out_bytes: int = 0  # that it has written, when it has ended
    err_bytes: int = 0


class Journal:
    """The journal of node `name` in `directory`. It is read when first needed. Thread-safe."""

    def __init__(self, directory: str | os.PathLike[str], name: str, *, runs_max: int = RUNS_MAX) -> None:
        self._path = Path(directory) / _FILE
        self._name, self._runs_max = name, runs_max
        self._lock = threading.Lock()  # guards everything below
        self._records: dict[str, Record] | None = None
        self._floor = ""  # runs up to this id are not begun
        self._file = -1
        self._closed = False

    def begin(self, run: Run) -> bool:
        """Return whether `run` is to be begun: it never was, and from now on it was, also after kill -9 or a loss of
        power. Takes as long as the medium. DiskFull, StoreUnusable: then it was not, and is not to be."""
        with self._lock:
            records = self._read()
            if run.id in records or run.id <= self._floor:
                return False
            record = _record(run)
            self._write({"begun": asdict(record)}, flush=True)
            records[run.id] = record
            if len(records) > 2 * self._runs_max:
                self._shorten(records)
            return True

    def end(self, run_id: str, ended: Ended, written: tuple[int, int] = (0, 0)) -> None:
        """Write what came of a run that was begun, and how many bytes it has written to its two streams. DiskFull,
        StoreUnusable."""
        with self._lock:
            records = self._read()
            if run_id in records:
                said: dict[str, Any] = {"state": ended.state, "code": ended.code, "seconds": round(ended.seconds, 3)}
                said |= {"why": ended.why, "out_bytes": written[0], "err_bytes": written[1]}
                records[run_id] = replace(records[run_id], **said)
                self._write({"ended": run_id, **said})

    def outcome(self, run_id: str) -> Ended:
        """Return what came of a run that does not run now, and that `begin` refused."""
        with self._lock:
            record = self._read().get(run_id)
        if record is None:
            return Ended(self._name, "refused", why="it is older than all the runs that are remembered")
        if record.state is None:
            return self.unended(self._name)
        return Ended(self._name, record.state, record.code, record.seconds, record.why)

    @staticmethod
    def unended(name: str) -> Ended:
        """Return what is said of a run of node `name` that was begun, does not run now, and has no end."""
        return Ended(name, "lost", why="the node was started anew while it ran")

    def one(self, run_id: str) -> Record | None:
        """Return what is known of a run, if anything."""
        with self._lock:
            return self._read().get(run_id)

    def newest(self, limit: int) -> list[Record]:
        """Return the `limit` newest runs, the newest first."""
        with self._lock:
            records = self._read()
            return [records[run_id] for run_id in sorted(records, reverse=True)[:limit]]

    def close(self) -> None:
        """Nothing is written any more: all else raises StoreClosed. Idempotent."""
        with self._lock:
            self._closed = True
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._records = None

    # -- the file -----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Record]:
        if self._closed:  # the next process may have the directory
            raise StoreClosed("the node has ended")
        if self._records is not None:
            return self._records
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            data = self._path.read_bytes()
            if not data:
                self._flush_name()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):  # cut short by a kill: whoever wrote it has not begun what it says
                os.ftruncate(self._file, whole)
        except OSError as error:
            raise failed_call(error, self._path) from error
        self._records, is_whole = {}, True
        for line in data[:whole].splitlines():
            is_whole &= self._take(self._records, line)
        if not is_whole:  # what a damaged line said is not known: nothing up to now is to be begun
            self._floor = max([self._floor, *self._records])
        return self._records

    def _take(self, records: dict[str, Record], line: bytes) -> bool:
        """Take in a line of the file; return whether it is one."""
        try:
            said: dict[str, Any] = json.loads(line)
            if "floor" in said:
                self._floor = max(self._floor, str(said["floor"]))
            elif "begun" in said:
                record = Record(**said["begun"])
                records[record.id] = record
            else:
                run_id = said.pop("ended")
                records[run_id] = replace(records[run_id], **said)
        except (ValueError, TypeError, KeyError):
            return False
        return True

    def _write(self, said: dict[str, Any], *, flush: bool = False) -> None:
        line = json.dumps(said).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(28, os.strerror(28))
            if flush:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise failed_call(error, self._path) from error

    def _flush_name(self) -> None:
        """Have the file be under its name also after a loss of power."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _shorten(self, records: dict[str, Record]) -> None:
        """Forget the oldest. What is written meanwhile is the file that there was."""
        new = self._path.with_suffix(".new")
        ids = sorted(records)
        old, kept = ids[: -self._runs_max], ids[-self._runs_max :]
        lines: Iterable[dict[str, Any]] = [{"floor": old[-1]}, *({"begun": asdict(records[one])} for one in kept)]
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            self._flush_name()
            file_of_new = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError:  # there is no room: it stays as it is, and is shortened later
            new.unlink(missing_ok=True)
            return
        os.close(self._file)
        self._file, self._floor = file_of_new, old[-1]
        for one in old:
            del records[one]


def _record(run: Run) -> Record:
    work = run.work
    return Record(
        id=run.id,
        time=run.time,
        user=run.user,
        host=run.host,
        kind=type(work).__name__.lower(),
        text=work.text.encode("utf-8", "replace").decode()[:_TEXT_CHARACTERS_MAX],
        sha256=work.sha256,
        nodes=run.nodes,
    )
