"""Runs on every node over Flight, for `eau2 exec --store eau2://...`: with an admin's token. See `served/fleet.py`."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from dataclasses import asdict, replace
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from eau2.doors.refused_runs import RefusedRuns
from eau2.doors.tokens import Role
from eau2.errors import Eau2Error, InvalidOption, InvalidValue, NotAllowed, StoreBusy
from eau2.fleet.run import Push
from eau2.monitor.runs import came_by
from eau2.served import fleet_wire, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.doors.flight_access import Caller
    from eau2.fleet.any_fleet import AnyFleet
    from eau2.fleet.run import Ended, Output, Run
    from eau2.served.wire import Header
    from eau2.store.store import Store

PREFIX = "fleet_"  # of the verbs
RUNS_MAX = 64  # at a time
ROWS_MAX = 10_000
_ROOM = 256  # things that wait to be sent
_WAIT_SECONDS = 1.0  # between two signs of life


class FleetVerbs:
    """What is asked of the nodes of `store`, if it is a cluster. Thread-safe."""

    def __init__(self, store: Store, audit: Callable[..., None], ending: threading.Event) -> None:
        self._store, self._audit, self._ending = store, audit, ending
        self._refused = RefusedRuns(store, audit)
        self._lock = threading.Lock()  # guards what is below
        self._running: dict[str, Spool | None] = {}

    def replies(self, caller: Caller, peer: str, verb: str, header: Header, payload: memoryview) -> Iterator[bytes]:
        """Yield the reply to `verb`. NotAllowed, InvalidOption, InvalidValue, and what the nodes raise."""
        caller.require(Role.READ)
        peer = _address(peer)
        fleet, run_id = self._fleet(), str(header.get("run", ""))
        data = b""
        if verb == "fleet_allowed":
            said: Header = {"allowed": fleet.allowed()}
        elif verb == "fleet_names":
            said = {"names": fleet.names([str(name) for name in header.get("wanted", ())])}
        elif verb == "fleet_runs":
            said = {"runs": [fleet_wire.audited_said(one) for one in fleet.audit(_limit(header))]}
        elif verb == "fleet_refusals":
            said = {"refusals": [asdict(one) for one in fleet.refusals(_limit(header))]}
        elif verb == "fleet_run":
            found = fleet.one(run_id)
            said = {"found": None if found is None else fleet_wire.audited_said(found)}
        else:
            said, data = self._of_admin(caller, peer, verb, header, payload)
        yield wire.message(said, data)

    def _of_admin(
        self, caller: Caller, peer: str, verb: str, header: Header, payload: memoryview
    ) -> tuple[Header, bytes]:
        run_id, fleet = str(header.get("run", "")), self._fleet()
        if verb == "fleet_written":
            self._require(caller)
            out, err = (int(start) for start in header.get("starts", (0, 0)))
            found = fleet.written(run_id, str(header.get("node", "")), (out, err))
            return ({"record": None}, b"") if found is None else fleet_wire.written_said(found)
        if verb == "fleet_cancel":
            self._require(caller, peer, f"cancel {run_id}")
            self._audit("run cancelled", peer, run=run_id)
            fleet.cancel(run_id)
            return {}, b""
        if verb == "fleet_part":
            self._require(caller)
            with self._lock:
                spool = self._running.get(run_id)
            if spool is None:
                raise InvalidOption(f"no push {run_id!r:.40} is under way here")
            spool.take(int(header.get("number", -1)), bytes(payload))
            return {}, b""
        raise InvalidOption(f"the server has no action 'eau2.{verb:.40}'", hint="is it of another version?")

    def run(self, caller: Caller, peer: str, asked: Header, gone: Callable[[], bool]) -> Iterator[pa.RecordBatch]:
        """Return what comes of a run, piece by piece. It is ended when `gone` says so, or the stream is left."""
        caller.require(Role.READ)
        fleet, run = self._fleet(), fleet_wire.run_heard(asked["run"])
        text = run.work.text
        peer = _address(peer)
        self._require(caller, peer, text, kind=type(run.work).__name__.lower(), who=run.user)
        run = replace(run, host=came_by("eau2://", f"{run.host}, {_host(peer)}"))
        try:
            fleet.admit(run)
        except NotAllowed as error:
            self._audit("run refused", peer, why=error.message, text=text[:300])
            raise
        names = fleet.names([str(name) for name in asked.get("names", ())])
        self._audit("run begun", peer, run=run.id, text=text[:300], sha256=run.work.sha256, nodes=names)
        run = replace(run, nodes=len(names))
        return self._pieces(fleet, run, names, gone, rolling=bool(asked.get("rolling")))

    def _pieces(
        self, fleet: AnyFleet, run: Run, names: list[str], gone: Callable[[], bool], *, rolling: bool
    ) -> Iterator[pa.RecordBatch]:
        spool = Spool(run.work) if isinstance(run.work, Push) else None
        following: _Following | None = None
        try:
            with self._lock:
                if len(self._running) >= RUNS_MAX or run.id in self._running:
                    raise StoreBusy(f"{len(self._running)} runs are under way over this server", hint="try again later")
                self._running[run.id] = spool
            following = _Following(fleet, run, names, spool, rolling=rolling)
            yield _piece({"begun": run.id})
            while not self._ending.is_set() and not gone():
                said = following.next()
                if isinstance(said, Eau2Error):
                    raise said
                yield _piece(*said)
                if "well" in said[0]:
                    return
        finally:
            if following is not None:
                following.close()
                with self._lock:
                    self._running.pop(run.id, None)
            if spool is not None:
                spool.close()

    # -- who may ------------------------------------------------------------------------------------------------------

    def _fleet(self) -> AnyFleet:
        found = self._store.node.fleet
        if found is None:
            raise InvalidOption(
                f"{self._store.name} is no cluster: commands run on the nodes of one",
                hint="serve a cluster that was started with `eau2 up --allow-exec`",
            )
        return found

    def _require(self, caller: Caller, peer: str = "", text: str = "", *, kind: str = "", who: str = "") -> None:
        """NotAllowed unless an admin's token was given. peer: then it is written down."""
        if caller.access.has_tokens and caller.access.role >= Role.ADMIN:
            return
        role = caller.access.role.name.lower()
        why = f"the token may only {role}" if caller.access.has_tokens else "the server has no tokens"
        if peer:
            self._refused.note(peer, _host(peer), role, why, door="eau2://", who=who, kind=kind, text=text)
        raise NotAllowed(f"what runs on nodes takes a token of an admin: {why}", hint="set EAU2_TOKEN to one")


class Spool:
    """Files that a client pushes, on the server until the nodes have them. Thread-safe. As `Parts`."""

    def __init__(self, push: Push) -> None:
        self._push = push
        self._sizes = [sum(file.size for file in push.files[:index]) for index in range(len(push.files))]
        self._file = tempfile.TemporaryFile(prefix="eau2-push-")  # noqa: SIM115  # until close
        self._changed = threading.Condition()  # guards all below, and the file
        self._wanted = set(range(push.parts))
        self._over = False

    def take(self, number: int, data: bytes) -> None:
        """Take in a part. InvalidValue when it is none; OSError of a full disk is an InvalidValue too."""
        with self._changed:
            if number not in self._wanted or self._over:
                return
            index, start, size = self._push.part(number)
            if len(data) != size:
                raise InvalidValue(f"part {number} has {size} bytes, not {len(data)}")
            self._file.seek(self._sizes[index] + start)
            try:
                self._file.write(data)
                self._file.flush()
            except OSError as error:
                raise InvalidValue(f"the server cannot take the files in: {error.strerror}") from None
            self._wanted.discard(number)
            self._changed.notify_all()

    def part(self, number: int) -> bytes | None:
        with self._changed:
            while number in self._wanted and not self._over:
                self._changed.wait(_WAIT_SECONDS)
            if self._over:
                return None
            index, start, size = self._push.part(number)
            self._file.seek(self._sizes[index] + start)
            return self._file.read(size)

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
            self._file.close()


class _Following:
    """A run that goes on in a thread of its own, so that its caller can look whether anybody still waits."""

    def __init__(self, fleet: AnyFleet, run: Run, names: list[str], spool: Spool | None, *, rolling: bool) -> None:
        self._fleet, self._run, self._names, self._spool, self._rolling = fleet, run, names, spool, rolling
        self._things: Queue[tuple[Header, bytes] | Eau2Error] = Queue(_ROOM)
        self._left, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._do, name="eau2-flight-run", daemon=True).start()

    def next(self) -> tuple[Header, bytes] | Eau2Error:
        """Return the next thing, or a sign of life."""
        try:
            return self._things.get(timeout=_WAIT_SECONDS)
        except Empty:
            return {}, b""

    def close(self) -> None:
        """End it, unless it has ended. Idempotent."""
        self._left.set()
        if not self._done.is_set():
            with contextlib.suppress(Eau2Error):  # nodes end what nobody waits for by themselves
                self._fleet.cancel(self._run.id)

    def _do(self) -> None:
        with contextlib.suppress(_LeftError):
            try:
                if self._rolling:
                    _, are_well = self._fleet.roll(self._run, self._names, self._hear, self._spool)
                else:
                    ended = self._fleet.run(self._run, self._names, self._hear, self._spool)
                    are_well = all(one.is_good for one in ended)
                said: tuple[Header, bytes] | Eau2Error = {"well": are_well}, b""
            except Eau2Error as error:
                said = error
            self._done.set()
            self._put(said)

    def _hear(self, said: Output | Ended) -> None:
        self._put(fleet_wire.thing_said(said))

    def _put(self, thing: tuple[Header, bytes] | Eau2Error) -> None:
        while not self._left.is_set():
            with contextlib.suppress(Full):
                self._things.put(thing, timeout=_WAIT_SECONDS)
                return
        raise _LeftError


class _LeftError(Exception):
    """Nobody waits any more: it ends the run."""


def _address(peer: str) -> str:
    """Return from where who calls came, as gRPC has it.

    >>> _address("ipv4:127.0.0.1:52341"), _address("ipv6:%5B::1%5D:52341")
    ('127.0.0.1:52341', '[::1]:52341')
    """
    return unquote(peer).partition(":")[2] or peer


def _host(address: str) -> str:
    return address.rpartition(":")[0] or address


def _piece(header: Header, data: bytes = b"") -> pa.RecordBatch:
    return wire.piece(pa.py_buffer(wire.message(header, data)))


def _limit(header: Header) -> int:
    found = header.get("limit")
    if not isinstance(found, int) or not 0 < found <= ROWS_MAX:
        raise InvalidOption(f"limit is from 1 to {ROWS_MAX}, not {found!r:.40}")
    return found
