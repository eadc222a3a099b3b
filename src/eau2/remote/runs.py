"""What a node does of the runs of a fleet: each once, for whoever asks, and those below it are asked in turn."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eau2.errors import Eau2Error, NotAllowed
from eau2.fleet.any_fleet import Written
from eau2.fleet.execution import ORPHAN_SECONDS, Execution
from eau2.fleet.journal import Journal
from eau2.fleet.kept import KeptOutput
from eau2.fleet.refusals import Refusal, Refusals
from eau2.fleet.run import Cancel, Ended, Finished, Order, Part, Push, Withdrawn
from eau2.remote.jobs import FarJobs
from eau2.remote.spreading import Mailbox, Spreading

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from eau2.fleet.journal import Record
    from eau2.fleet.run import Run
    from eau2.remote.transport import Transport

RUNNING_MAX = 64
ASKED = frozenset({"allowed", "newest", "one", "refusals", "refuse", "written", "cancel"})  # of `Runs`, by others
_CANCELLED_MAX = 1000  # ids of runs that were cancelled, and may come yet
_ENDED_MAX = 8  # that are kept with what they wrote, for who asks late
_WAIT_SECONDS = 1.0  # a bound on one wait; the loop around it waits on
_STOP_SECONDS = 0.3


def not_allowed(who: str) -> NotAllowed:
    """Return the error of `who` was started without it."""
    return NotAllowed(
        f"{who} does not run commands",
        hint="that is allowed when a cluster is started: `eau2 down`, then `eau2 up --allow-exec`",
    )


def refusal_of(run: Run, why: str) -> Refusal:
    """Return the note that `run` was refused."""
    kind = type(run.work).__name__.lower()
    return Refusal(run.id, run.time, run.user, run.host, kind, run.work.text, why)


class Runs:
    """The runs of node `name`, with their journal in `directory`. Thread-safe. allowed: whether it does any."""

    def __init__(
        self,
        name: str,
        directory: str | os.PathLike[str],
        transport: Transport,
        *,
        allowed: bool,
        orphan_seconds: float = ORPHAN_SECONDS,
    ) -> None:
        self.name = name
        self.jobs = FarJobs(transport)
        self._allowed, self._orphan_seconds = allowed, orphan_seconds
        self._journal, self._kept, self._refused = Journal(directory, name), KeptOutput(directory), Refusals(directory)
        self._lock = threading.Lock()  # guards what is below
        self._executions: dict[str, Execution] = {}
        self._cancelled: deque[str] = deque(maxlen=_CANCELLED_MAX)
        self._closed = False

    def begin(self, order: Order, say: Callable[[Any], None]) -> Asked:
        """Do what is ordered, once, however often it is ordered. NotAllowed, DiskFull, StoreUnusable."""
        if not self._allowed:
            error = not_allowed(self.name)
            with contextlib.suppress(Eau2Error):  # a full disk: it is refused all the same
                self.refuse(refusal_of(order.run, error.message))
            raise error
        with self._lock:
            execution = self._execution(order)
            if isinstance(execution, Execution):
                execution.hold()
        return Asked(self, order, execution, say)

    def _execution(self, order: Order) -> Execution | Ended:
        """Return the run on this node, begun here and now or before; or what came of it when that is long ago."""
        known = self._executions.get(order.run.id)
        if known is not None:
            return known
        running = sum(not one.has_ended.is_set() for one in self._executions.values())
        if self._closed or running >= RUNNING_MAX:
            why = "the node is ending" if self._closed else f"{running} runs are under way there"
            return Ended(self.name, "refused", why=why)
        if not self._journal.begin(order.run):
            return self._journal.outcome(order.run.id)
        if order.cancelled or order.run.id in self._cancelled:
            ended = Ended(self.name, "cancelled", why="it was not begun")
            self._journal.end(order.run.id, ended)
            return ended
        self._forget()
        keeping = None if isinstance(order.run.work, Push) else self._kept.begin(order.run.id)
        seconds = self._orphan_seconds
        found = Execution(self.name, order.run, self._journal, keeping=keeping, orphan_seconds=seconds)
        self._executions[order.run.id] = found
        return found

    def _forget(self) -> None:
        """Let go of runs that nobody waits for: of files at once, as they are open, and of the oldest commands."""
        idle = [run_id for run_id, one in self._executions.items() if one.is_idle]
        files = [run_id for run_id in idle if isinstance(self._executions[run_id].run.work, Push)]
        commands = [run_id for run_id in idle if run_id not in files]
        for run_id in files + commands[:-_ENDED_MAX]:
            self._executions.pop(run_id).close()

    def let_go(self, execution: Execution, hear: Callable[[Any], None]) -> None:
        """Who asked for it waits no more. See `Execution.let_go`."""
        execution.let_go(hear)
        with self._lock:
            self._forget()

    # -- what others ask ----------------------------------------------------------------------------------------------

    def allowed(self) -> bool:
        """Whether it runs anything."""
        return self._allowed

    def cancel(self, run_id: str) -> None:
        """End a run here, whoever asked for it; when it comes later it is not begun. Not waited for."""
        with self._lock:
            self._cancelled.append(run_id)
            execution = self._executions.get(run_id)
        if execution is not None:
            execution.cancel()

    def newest(self, limit: int) -> list[Record]:
        """Return the `limit` newest runs, the newest first. Those without a state run now."""
        with self._lock:
            return [self._as_it_is(record) for record in self._journal.newest(limit)]

    def one(self, run_id: str) -> Record | None:
        """Return a run, likewise; None when there was none here."""
        with self._lock:
            record = self._journal.one(run_id)
            return None if record is None else self._as_it_is(record)

    def _as_it_is(self, record: Record) -> Record:
        if record.state is None and record.id not in self._executions:
            ended = Journal.unended(self.name)
            return replace(record, state=ended.state, why=ended.why)
        return record

    def written(self, run_id: str, starts: tuple[int, int]) -> Written | None:
        """Return what a run has written here, as far as it is kept; None when there was none. InvalidOption."""
        record = self.one(run_id)  # first: of one that has ended all is read then
        return None if record is None else Written(record, *self._kept.read(run_id, starts))

    def refuse(self, refusal: Refusal) -> None:
        """Note what was refused. DiskFull, StoreUnusable."""
        self._refused.note(refusal)

    def refusals(self, limit: int) -> list[Refusal]:
        """Return the `limit` newest that were refused, the newest first."""
        return self._refused.newest(limit)

    def close(self) -> None:
        """End all runs. Idempotent."""
        with self._lock:
            self._closed = True
            executions, self._executions = list(self._executions.values()), {}
        self.jobs.close()
        ending = [threading.Thread(target=one.close, name="eau2-run-ending", daemon=True) for one in executions]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join(_STOP_SECONDS)
        self._journal.close()


class Asked:
    """The job of who asks this node for a run. See `work.Working`."""

    capacity = 1

    def __init__(self, runs: Runs, order: Order, execution: Execution | Ended, say: Callable[[Any], None]) -> None:
        self._runs, self._execution, self._say = runs, execution, say
        self._over = threading.Event()
        self._mailbox = Mailbox()
        parts = execution.parts if isinstance(execution, Execution) else None
        self._spreading = Spreading(runs.jobs, order, self._mailbox, parts)
        is_push = isinstance(order.run.work, Push)
        if order.cancelled and isinstance(execution, Execution):
            execution.cancel()
        threading.Thread(target=self._follow, args=(is_push,), name="eau2-run-asked", daemon=True).start()

    def take(self, thing: Part | Cancel) -> None:
        if isinstance(thing, Cancel):
            if isinstance(self._execution, Execution):
                self._execution.cancel()
            self._spreading.cancel()
        elif isinstance(self._execution, Execution):
            self._execution.take(thing.number, thing.data)

    def end(self) -> None:
        if self._over.is_set():
            return
        self._over.set()
        self._mailbox.close()
        self._spreading.end()
        if isinstance(self._execution, Execution):
            self._runs.let_go(self._execution, self._mailbox.put_patiently)

    def _follow(self, is_push: bool) -> None:
        """Say what comes of it here and below, and then that this is all.

        A node that has not got the files cannot pass them on, nor all of them when it fails midway: so those below are
        asked by others then.
        """
        can_pass_on = isinstance(self._execution, Execution) or not is_push
        if can_pass_on:
            self._spreading.begin()
        if isinstance(self._execution, Ended):
            self._mailbox.put(self._execution)
        else:
            # In a thread of its own: it waits until there is room for all that was written before.
            threading.Thread(
                target=self._execution.listen, args=(self._mailbox.put_patiently,), name="eau2-run-heard", daemon=True
            ).start()
        is_here = False  # it is known what came of it here
        while not self._over.is_set():
            is_last = is_here and self._spreading.done.is_set()
            said = self._mailbox.get(0.0 if is_last else _WAIT_SECONDS)
            if said is not None:
                self._say(said)
            elif is_last:
                self._say(Finished())
                return
            if isinstance(said, Ended) and said.node == self._runs.name:
                is_here = True
                if is_push and not (can_pass_on and said.state == "ended"):
                    self._say(Withdrawn())
                    return
