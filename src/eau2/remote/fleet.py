"""All nodes of a cluster as its operator has them: what is run on each, and what was."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import NotServing, Unreachable
from eau2.errors import DiskFull, InvalidOption, NodeUnavailable, StoreUnusable
from eau2.fleet.any_fleet import Audited, Written
from eau2.fleet.refusals import NODES
from eau2.fleet.rolling import rolled
from eau2.fleet.run import Ended, Order, Output
from eau2.remote.jobs import FarJobs
from eau2.remote.runs import not_allowed, refusal_of
from eau2.remote.spreading import Mailbox, Spreading
from eau2.remote.transport import ANSWER_SECONDS, CHUNK_SECONDS, COORDINATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.cluster.view import View
    from eau2.fleet.files import Parts
    from eau2.fleet.journal import Record
    from eau2.fleet.refusals import Refusal
    from eau2.fleet.run import Run
    from eau2.remote.coordinator import ClusterStatus
    from eau2.remote.membership import NodeStatus
    from eau2.remote.transport import Transport

    Hear = Callable[[Output | Ended], None]

WELL_SECONDS = 120.0  # for a node to come back
_LOOK_SECONDS = 0.2
_WAIT_SECONDS = 0.5  # a bound on one wait, also for a signal to be seen; the loop around it waits on
_ANSWER_SECONDS = 10.0
_WRITTEN_SECONDS = 5.0  # for what a run has written, of 1 MiB at most


class Fleet:
    """The nodes of the cluster that `transport` reaches. Thread-safe; a context manager.

    well_seconds: for how long a rolling run waits until a node is well.
    """

    def __init__(self, transport: Transport, *, well_seconds: float = WELL_SECONDS) -> None:
        self._transport = transport
        self._well_seconds = well_seconds
        self._jobs = FarJobs(transport)
        self._closed = threading.Event()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent. Nodes go on for some seconds with what nobody waits for any more."""
        self._closed.set()
        self._jobs.close()

    # -- running ------------------------------------------------------------------------------------------------------

    def names(self, wanted: Sequence[str] = ()) -> list[str]:
        """Return the names of all members, or of those `wanted`, each once. InvalidOption when there is no such node;
        NodeUnavailable when no coordinator answers."""
        view = self._view()
        known = [name for name, state in view.members if state.name != "LEFT"]
        for name in wanted:
            if name not in known:
                raise InvalidOption(f"the cluster has no node {name!r}", hint=f"it has {', '.join(known)}")
        return list(dict.fromkeys(wanted)) or known

    def run(self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None = None) -> list[Ended]:
        """Have `names` do `run`, all at once; return what came of it on each, in order of name.

        hear: is told what commands write, and what came of each, in this thread; what it raises ends the run
        everywhere, as does Ctrl-C. parts: of the files that are pushed.
        """
        present = self._view().present
        dead = [Ended(name, "unreached", why="it is dead") for name in names if name not in present]
        for ended in dead:
            hear(ended)
        return sorted([*dead, *self._run(run, [name for name in names if name in present], hear, parts)])

    def _run(self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None) -> list[Ended]:
        found: list[Ended] = []
        spreading = Spreading(self._jobs, Order(run, tuple(names)), mailbox := Mailbox(), parts)
        try:
            spreading.begin()
            while True:
                is_last = spreading.done.is_set()
                said = mailbox.get(0.0 if is_last else _WAIT_SECONDS)
                if said is None and is_last:
                    return found
                if said is not None:
                    hear(said)
                if isinstance(said, Ended):
                    found.append(said)
        except BaseException:
            spreading.cancel()
            raise
        finally:
            mailbox.close()
            spreading.end()

    def roll(self, run: Run, names: Sequence[str], hear: Hear, parts: Parts | None = None) -> tuple[list[Ended], bool]:
        """As `run`, but one node after the other, in the order of `names`: see `rolled`. Return what came of it on
        each, and whether all were well."""

        def hear_output(said: Output | Ended) -> None:
            if isinstance(said, Output):
                hear(said)

        def run_on(name: str) -> Ended:
            (ended,) = self._run(run, [name], hear_output, parts)
            if ended.state == "lost" and not self._why_unwell(name):
                # It is back, and says what it knows: that it lost the run, or what came of it.
                (ended,) = self._run(run, [name], hear_output, parts)
            return ended

        found, are_well = [], True
        for ended, is_well in rolled(names, run_on, self._why_unwell):
            hear(ended)
            found.append(ended)
            are_well &= is_well
        return found, are_well

    def _why_unwell(self, name: str) -> str:
        """Return why `name` takes no full part in the cluster, "" when it does; wait for that, if need be."""
        deadline = time.monotonic() + self._well_seconds
        while (why := self._trouble(name)) and time.monotonic() < deadline:
            self._closed.wait(_LOOK_SECONDS)
        return why

    def _trouble(self, name: str) -> str:
        try:
            status: NodeStatus = self._ask(name, "status", seconds=ANSWER_SECONDS)
            view = self._view()
        except (Unreachable, NotServing, NodeUnavailable):
            return "it does not answer"
        if status.refused:
            return status.refused
        if name not in view.live:
            return f"it is {view.state(name).name.lower()}"
        return "" if status.serves else "it does not serve yet"

    # -- looking back -------------------------------------------------------------------------------------------------

    def allowed(self) -> bool:
        """As `AnyFleet.allowed`: any node knows."""
        for name in self._view().present:
            with contextlib.suppress(Unreachable, NotServing):
                found: bool = self._ask(name, "fleet", "allowed", seconds=ANSWER_SECONDS)
                return found
        raise NodeUnavailable("no node says whether it runs commands", hint="try again when one is back")

    def admit(self, run: Run) -> None:
        """As `AnyFleet.admit`."""
        if not self.allowed():
            error = not_allowed("this cluster")
            self.refuse(refusal_of(run, error.message))
            raise error

    def cancel(self, run_id: str) -> None:
        """As `AnyFleet.cancel`. Waits for 2 s at most."""
        self._each("cancel", run_id, seconds=ANSWER_SECONDS)

    def audit(self, limit: int) -> list[Audited]:
        """As `AnyFleet.audit`."""
        found: dict[str, Audited] = {}
        for name, records in self._each("newest", limit).items():
            record: Record
            for record in records:
                found.setdefault(record.id, Audited(record)).on[name] = record
        return [found[run_id] for run_id in sorted(found, reverse=True)[:limit]]

    def one(self, run_id: str) -> Audited | None:
        """As `AnyFleet.one`."""
        records: dict[str, Record] = {name: one for name, one in self._each("one", run_id).items() if one is not None}
        return Audited(next(iter(records.values())), records) if records else None

    def refusals(self, limit: int) -> list[Refusal]:
        """As `AnyFleet.refusals`."""
        found: dict[str, Refusal] = {one.id: one for each in self._each("refusals", limit).values() for one in each}
        return [found[run_id] for run_id in sorted(found, reverse=True)[:limit]]

    def refuse(self, refusal: Refusal) -> None:
        """As `AnyFleet.refuse`. Waits for 2 s at most."""
        with contextlib.suppress(NodeUnavailable):  # it is refused all the same
            present = self._view().present
            few = random.sample(present, min(NODES, len(present)))  # not always the same: each keeps so many
            self._each("refuse", refusal, names=few, seconds=ANSWER_SECONDS)

    def written(self, run_id: str, node: str, starts: tuple[int, int] = (0, 0)) -> Written | None:
        """As `AnyFleet.written`."""
        try:
            found: Written | None = self._ask(node, "fleet", "written", run_id, starts, seconds=_WRITTEN_SECONDS)
        except (Unreachable, NotServing):
            raise NodeUnavailable(f"{node} does not answer", hint="see whether it lives") from None
        return found

    def _each(
        self, method: str, *given: Any, names: Sequence[str] | None = None, seconds: float = CHUNK_SECONDS
    ) -> dict[str, Any]:
        """Return what each of `names`, of all that are present, says, of those that answer without an error."""
        asked = self._view().present if names is None else names
        calls = {name: self._transport.call(name, "fleet", ((method, *given), {}), seconds) for name in asked}
        found: dict[str, Any] = {}
        for name, pending in calls.items():
            with contextlib.suppress(Unreachable, NotServing, DiskFull, StoreUnusable):
                found[name] = pending.result()
        return found

    # -- asking -------------------------------------------------------------------------------------------------------

    def _view(self) -> View:
        """Return the members. NodeUnavailable when the coordinator does not answer, or knows of none."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            with contextlib.suppress(Unreachable):
                status: ClusterStatus = self._ask(COORDINATOR, "status", seconds=ANSWER_SECONDS)
                if status.view is not None:
                    return status.view
            if time.monotonic() >= deadline or self._closed.wait(_LOOK_SECONDS):
                raise NodeUnavailable(f"the {COORDINATOR} of the cluster does not answer", hint="ask again in seconds")

    def _ask(self, name: str, method: str, *given: Any, seconds: float) -> Any:
        return self._transport.call(name, method, (given, {}), seconds).result()
