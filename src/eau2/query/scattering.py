"""Tasks on nodes that are processes of their own: each where its chunk is, and elsewhere when that node dies."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eau2.errors import Eau2Error, NodeUnavailable
from eau2.query.crossing import MapTask, error_text, unpack
from eau2.query.placing import NotRun, WorkerEnded

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from eau2.query.crossing import MapOrder, MapOutcome
    from eau2.query.placing import Executor, Placed
    from eau2.query.shipping import Rows
    from eau2.store.jobs import Job, Jobs


@dataclass(slots=True)
class _Sent:
    """A task that is under way."""

    part: Rows
    future: Future[Any]
    node: str = ""  # where it runs
    tried: dict[str, Exception] = field(default_factory=dict)  # nodes that cannot read its chunk, and why


class Scattered:
    """An `Executor` for one map: has each task run by a node that has its chunk.

    A node that dies, or cannot read a chunk, is passed over for others that are homes of it, then for any that is live.
    What none of them has, because the frame was replaced or deleted while it is held, `here` runs. As a context manager
    it ends all that still runs when it is left.
    """

    def __init__(self, jobs: Jobs, placed: Placed, order: MapOrder, here: Callable[[ExitStack], Executor]) -> None:
        self.ahead = 1
        self._jobs, self._placed, self._order, self._make_here = jobs, placed, order, here
        self._left = ExitStack()
        self._lock = threading.Lock()  # guards everything below
        self._here: Executor | None = None
        self._beginning: dict[str, threading.Lock] = {}
        self._begun: dict[str, Job] = {}
        self._lost: dict[str, Eau2Error] = {}
        self._sent: dict[int, _Sent] = {}  # who takes a task out of this says what it came to
        self._count = 0

    def __enter__(self) -> Scattered:
        try:
            self.ahead = max(1, sum(self._room(name) for name in self._placed.nodes()))
        except BaseException as error:
            self._end(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kind, error, trace)

    def submit(self, part: Rows) -> Future[Any]:
        sent = _Sent(part, Future())
        with self._lock:
            number = self._count
            self._count += 1
            self._sent[number] = sent
        self._send(number, sent)
        return sent.future

    # -- private ------------------------------------------------------------------------------------------------------

    def _end(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._sent.clear()
            jobs = list(self._begun.values())
        for job in jobs:
            job.end()
        self._left.__exit__(kind, error, trace)  # after a failure the processes here are ended, and not lent again

    def _room(self, name: str) -> int:
        """Return how many tasks node `name` may have under way, so that it is never idle; 0 when it is lost."""
        try:
            return self._job(name).capacity + 1
        except NodeUnavailable:
            return 0

    def _job(self, name: str) -> Job:
        """Return the job on node `name`, begun now if need be. NodeUnavailable."""
        with self._lock:
            beginning = self._beginning.setdefault(name, threading.Lock())
        with beginning:
            with self._lock:
                if name in self._lost:
                    raise self._lost[name]
                if name in self._begun:
                    return self._begun[name]
            try:
                job = self._jobs.begin(name, "map", self._order, _Ear(self, name))
            except NodeUnavailable as error:
                with self._lock:
                    self._lost[name] = error
                raise
            with self._lock:
                self._begun[name] = job
            return job

    def _send(self, number: int, sent: _Sent) -> None:
        """Have a task run, on the first node that can. What is raised meanwhile is what the task comes to: the thread
        may be a job's, where nobody else would hear of it."""
        try:
            self._send_to_first(number, sent)
        except Eau2Error as error:  # the store was closed
            self._settle(number, None, NotRun(error))
        except Exception as error:
            what = f"chunk {sent.part.chunk} of {self._placed.source.title} cannot be sent to a node"
            self._settle(number, None, NotRun(NodeUnavailable(f"{what}: {error_text(error)}")))

    def _send_to_first(self, number: int, sent: _Sent) -> None:
        placed, part = self._placed, sent.part
        manifest = placed.source.manifest
        task = MapTask(number, placed.source.key, manifest.chunk_ids[part.chunk], manifest.chunk_rows[part.chunk], part)
        for name in self._candidates(part.chunk):
            if name in sent.tried:
                continue
            placed.move(part.chunk, name)
            with self._lock:
                sent.node = name
            try:
                self._job(name).tell(task)
            except NodeUnavailable as error:
                with self._lock:
                    lost_here = sent.node == name  # else it was sent elsewhere by who found that first
                    if lost_here:
                        sent.node = ""
                self.lose(name, error)
                if not lost_here:
                    return
            else:
                return
        placed.move(part.chunk, "")
        self._run_here(number, sent)

    def _candidates(self, chunk: int) -> list[str]:
        source = self._placed.source
        assert source.node is not None
        names = dict.fromkeys((self._placed.node(chunk), *source.manifest.chunk_homes[chunk], *source.node.live()))
        with self._lock:
            return [name for name in names if name not in self._lost]

    def _run_here(self, number: int, sent: _Sent) -> None:
        source, chunk = self._placed.source, sent.part.chunk
        try:
            with self._lock:
                if self._here is None:
                    self._here = self._make_here(self._left)
                here = self._here
            future = here.submit(sent.part)
        except (Eau2Error, OSError) as error:  # it is not here either, or no process can be started here
            homes = " and ".join(source.manifest.chunk_homes[chunk])
            reasons = [str(why) for why in (*self._lost.values(), *sent.tried.values())]
            what = f"chunk {chunk} of {source.title} ({source.manifest.chunk_ids[chunk]}) is on {homes}"
            self._settle(number, None, NotRun(NodeUnavailable(f"{what}: {'; '.join(reasons) or error}")))
            return
        future.add_done_callback(lambda done: self._done_here(number, done))

    def _done_here(self, number: int, done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            is_done, found = done.result()
            self._settle(number, found, None if is_done else _made_again(found))
        else:
            self._settle(number, None, error)

    def _settle(self, number: int, result: bytes | None, error: BaseException | None = None) -> None:
        with self._lock:
            sent = self._sent.pop(number, None)
        if sent is None:  # it was left
            return
        if error is None:
            sent.future.set_result(result)
        else:
            sent.future.set_exception(error)

    def heard(self, node: str, outcome: MapOutcome) -> None:
        """Take in what a task came to on `node`."""
        with self._lock:
            sent = self._sent.get(outcome.number)
            if sent is None or sent.node != node:  # it was left, or is done again elsewhere
                return
        if outcome.how == "absent":
            sent.tried[node] = outcome.found
            self._send(outcome.number, sent)
        elif outcome.how == "ended":
            self._settle(outcome.number, None, WorkerEnded())
        elif outcome.how == "raised":
            self._settle(outcome.number, None, _made_again(*outcome.found))
        else:
            self._settle(outcome.number, outcome.found)

    def lose(self, node: str, error: Eau2Error) -> None:
        """Node `node` does not answer any more: have its tasks done by others."""
        with self._lock:
            self._lost.setdefault(node, error)
            again = [(number, sent) for number, sent in self._sent.items() if sent.node == node]
            for _, sent in again:
                sent.node = ""
        for number, sent in again:
            if isinstance(error, NodeUnavailable):
                self._send(number, sent)
            else:  # the store was closed
                self._settle(number, None, NotRun(error))


def _made_again(packed: bytes, text: str = "") -> BaseException:
    """Return the error that the function raised; one that cannot be made again here becomes a RuntimeError that says
    `text`, which is what it said where it was raised."""
    try:
        error = unpack(packed)
        if not isinstance(error, BaseException):
            raise TypeError(f"it was made again as {type(error).__name__}")
    except (Exception, SystemExit) as why:  # it is the caller's class that says so
        failure = RuntimeError(text or f"its error cannot be made again in this process: {error_text(why)}")
        failure.__cause__ = why
        return failure
    return error


@dataclass(frozen=True, slots=True)
class _Ear:
    """Hears what the job on one node says."""

    scattered: Scattered
    node: str

    def hear(self, told: MapOutcome) -> None:
        self.scattered.heard(self.node, told)

    def lost(self, error: Eau2Error) -> None:
        self.scattered.lose(self.node, error)

    def room(self) -> int:
        return 1000  # no more than `ahead` are under way
