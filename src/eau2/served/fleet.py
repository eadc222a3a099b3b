"""All nodes behind a server: runs go through it, with a token that is admin's there."""

from __future__ import annotations

import contextlib
import threading
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any

from eau2.errors import Eau2Error, NodeUnavailable
from eau2.fleet.refusals import Refusal
from eau2.fleet.run import DEADLINE_SECONDS_MAX, Ended, Push
from eau2.served import fleet_wire
from eau2.served.wire import parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.fleet.any_fleet import Audited, Hear, Written
    from eau2.fleet.files import Parts
    from eau2.fleet.run import Run
    from eau2.served.connection import Connection, Stream

_ROOM = 256  # things that wait to be heard
_WAIT_SECONDS = 0.5  # a bound on one wait, also for a signal to be seen; the loop around it waits on
_STREAM_SECONDS = DEADLINE_SECONDS_MAX + 3600.0


class ServedFleet:
    """As `AnyFleet`, over `connection`. Also raises what `Connection.call` does; NotAllowed for other tokens than an
    admin's, ClusterUnavailable for one that is not known. InvalidOption when what is served is no cluster."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def allowed(self) -> bool:
        return bool(self._said("fleet_allowed")["allowed"])

    def admit(self, run: Run) -> None:
        """Nothing: the server does, when it is asked to run it."""

    def names(self, wanted: Sequence[str] = ()) -> list[str]:
        return list(self._said("fleet_names", wanted=list(wanted))["names"])

    def cancel(self, run_id: str) -> None:
        self._said("fleet_cancel", run=run_id)

    def audit(self, limit: int) -> list[Audited]:
        return [fleet_wire.audited_heard(one) for one in self._said("fleet_runs", limit=limit)["runs"]]

    def one(self, run_id: str) -> Audited | None:
        found = self._said("fleet_run", run=run_id)["found"]
        return None if found is None else fleet_wire.audited_heard(found)

    def refusals(self, limit: int) -> list[Refusal]:
        return [Refusal(**one) for one in self._said("fleet_refusals", limit=limit)["refusals"]]

    def refuse(self, refusal: Refusal) -> None:
        """Nothing: the server notes what it refuses."""

    def written(self, run_id: str, node: str, starts: tuple[int, int] = (0, 0)) -> Written | None:
        header = {"run": run_id, "node": node, "starts": list(starts)}
        ((said, data), *_) = self._connection.call("fleet_written", header)
        return None if said["record"] is None else fleet_wire.written_heard(said, bytes(data))

    def _said(self, verb: str, **asked: Any) -> dict[str, Any]:
        ((said, _), *_) = self._connection.call(verb, asked)
        return said

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None = None) -> list[Ended]:
        """As `AnyFleet.run`: NodeUnavailable when the server is lost midway; the nodes end it then."""
        return self._run(run, names, hear, parts, rolling=False)[0]

    def roll(self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None = None) -> tuple[list[Ended], bool]:
        return self._run(run, names, hear, parts, rolling=True)

    def _run(
        self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None, *, rolling: bool
    ) -> tuple[list[Ended], bool]:
        asked = {"run": fleet_wire.run_said(run), "names": list(names), "rolling": rolling}
        following = _Following(self._connection, asked)
        found: list[Ended] = []
        try:
            while True:
                header, data = following.next()
                if "begun" in header and parts is not None and isinstance(run.work, Push):
                    following.send(run.id, run.work.parts, parts)
                if "well" in header:
                    return found if rolling else sorted(found), bool(header["well"])
                said = fleet_wire.thing_heard(header, data)
                if said is not None:
                    hear(said)
                if isinstance(said, Ended):
                    found.append(said)
        finally:
            following.close()


class _Following:
    """Reads what the server says of a run in a thread: gRPC's own waiting hears of no signal."""

    def __init__(self, connection: Connection, asked: dict[str, Any]) -> None:
        self._connection, self._asked = connection, asked
        self._things: Queue[tuple[dict[str, Any], bytes] | Eau2Error] = Queue(_ROOM)
        self._over = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._read, name="eau2-following", daemon=True)
        self._thread.start()

    def next(self) -> tuple[dict[str, Any], bytes]:
        """Return the next thing. Raises what ended the stream."""
        while True:
            with contextlib.suppress(Empty):
                said = self._things.get(timeout=_WAIT_SECONDS)
                if isinstance(said, Eau2Error):
                    raise said
                return said

    def send(self, run_id: str, count: int, parts: Parts) -> None:
        """Send the parts of the files that are pushed, in a thread."""

        def send() -> None:
            try:
                for number in range(count):
                    data = parts.part(number)
                    if data is None or self._over.is_set():
                        return
                    self._connection.call("fleet_part", {"run": run_id, "number": number}, data)
            except Eau2Error as error:
                self._put(error)

        threading.Thread(target=send, name="eau2-sending", daemon=True).start()

    def close(self) -> None:
        """Have the server hear that nobody waits. Idempotent."""
        self._over.set()
        if self._stream is not None:
            self._stream.reader.cancel()
        self._thread.join(_WAIT_SECONDS)

    def _read(self) -> None:
        try:
            with self._connection.stream(self._asked, seconds=_STREAM_SECONDS) as stream:
                self._stream = stream
                for data in stream:
                    if self._over.is_set():
                        return
                    header, payload = parsed(data)
                    self._put((header, bytes(payload)))
            self._put(NodeUnavailable(f"the server at {self._connection.address} has ended", hint=_HINT))
        except Eau2Error as error:
            self._put(error)

    def _put(self, thing: tuple[dict[str, Any], bytes] | Eau2Error) -> None:
        while not self._over.is_set():
            with contextlib.suppress(Full):
                self._things.put(thing, timeout=_WAIT_SECONDS)
                return


_HINT = "the nodes end the run within half a minute: `eau2 exec --list` says what came of it"
