"""What a node does for callers besides storing: their jobs. The callers' side: `jobs.py`."""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from eau2.errors import Eau2Error, NodeUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eau2.remote.transport import Answer

    Said = tuple[tuple[bytes, bool], ...]  # parts of things, and whether each is the last part of its thing

JOB_CALLS = frozenset({"begin_job", "tell_job", "end_job"})  # each may take a second; hear_job comes to its answer
SILENT_SECONDS = 10.0  # a caller that is not heard of for so long has ended: so do its jobs
PART_BYTES = 8 << 20  # a call brings so much at once, so that it is answered in time also over a slow network
_UNHEARD_BYTES_MAX = 64 << 20  # what a job says beyond that waits
_UNHEARD_MAX = 10_000
_LOOK_SECONDS = 0.1
_WAIT_SECONDS = 1.0  # a bound on one wait; the loop around it waits on


class Working(Protocol):
    """What does the work of a job. Made with `say`, which tells the caller something, and waits when he is slow."""

    @property
    def capacity(self) -> int:
        """How many things it does at once."""

    def take(self, thing: Any) -> None:
        """Take in what the caller tells."""

    def end(self) -> None:
        """End all that is done for it, also what runs. Within a second."""


class Work:
    """All jobs of one node. Thread-safe.

    begin: for each kind of job what makes one, from its order and `say`.
    """

    def __init__(self, name: str, begin: Mapping[str, Callable[[Any, Callable[[Any], None]], Working]]) -> None:
        self._name = name
        self._begin = begin
        self._lock = threading.Lock()  # guards what is below
        self._jobs: dict[str, _Job] = {}
        self._watching = False
        self._closed = False

    def begin_job(self, job_id: str, kind: str, order: bytes) -> int:
        """Begin a job; return its capacity. May come twice."""
        with self._lock:
            if self._closed:
                raise self._unknown()
            job = self._jobs.get(job_id)
            if job is None:
                job = self._jobs[job_id] = _Job()
                if not self._watching:
                    self._watching = True
                    threading.Thread(target=self._watch, name="eau2-work", daemon=True).start()
        try:
            return job.begin(lambda: self._begin[kind](pickle.loads(order), job.say))
        except BaseException:
            self.end_job(job_id)
            raise

    def tell_job(self, job_id: str, number: int, thing: bytes) -> None:
        """Tell a job its thing `number`, from 1. May come twice."""
        self._job(job_id).tell(number, thing)

    def hear_job(self, job_id: str, number: int, seconds: float, room: int) -> Future[Answer]:
        """Come to what the job says, as soon as it does, or to nothing after `seconds`; `room` things at most. May
        come twice: `number` is then the same."""
        try:
            return self._job(job_id).poll(number, seconds, room)
        except Eau2Error as error:
            refused: Future[Answer] = Future()
            refused.set_result((None, error))
            return refused

    def end_job(self, job_id: str) -> None:
        """End a job; nothing when there is none of that name."""
        with self._lock:
            job = self._jobs.pop(job_id, None)
        if job is not None:
            job.end()

    def close(self) -> None:
        """End all jobs. Idempotent."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
        for job_id in jobs:
            self.end_job(job_id)

    def _job(self, job_id: str) -> _Job:
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise self._unknown()
        return job

    def _unknown(self) -> NodeUnavailable:
        return NodeUnavailable(f"{self._name} was started anew, or did not hear of its caller for {SILENT_SECONDS:g} s")

    def _watch(self) -> None:
        """Answer who waits for nothing, and end the jobs of callers that have ended, as long as there are any."""
        while True:
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            with self._lock:
                jobs = list(self._jobs.items())
                if not jobs:
                    self._watching = False
                    return
            for job_id, job in jobs:
                if job.look(now) > SILENT_SECONDS:
                    self.end_job(job_id)


class _Job:
    """One job: its worker, and what it has said that its caller has not heard yet."""

    def __init__(self) -> None:
        self._working: Working | None = None
        self._taking = threading.Lock()  # guards the line below
        self._told = 0
        self._changed = threading.Condition()  # guards everything below
        self._ended = False
        self._unheard: deque[tuple[bytes, bool]] = deque()
        self._unheard_bytes = 0
        self._heard_at = time.monotonic()
        self._poll: tuple[int, float, int, Future[Answer]] | None = None  # number, until when, room
        self._answered: tuple[int, Said] = (0, ())  # the latest

    def begin(self, make: Callable[[], Working]) -> int:
        with self._taking:
            if self._working is None:
                self._working = make()
                if self._ended:
                    self._working.end()
            return self._working.capacity

    def tell(self, number: int, thing: bytes) -> None:
        with self._taking:
            if number > self._told and self._working is not None:
                self._working.take(pickle.loads(thing))
                self._told = number

    def say(self, thing: Any) -> None:
        packed = pickle.dumps(thing)
        with self._changed:
            while not self._ended and (self._unheard_bytes > _UNHEARD_BYTES_MAX or len(self._unheard) > _UNHEARD_MAX):
                self._changed.wait(_WAIT_SECONDS)
            for start in range(0, len(packed), PART_BYTES):
                part = packed[start : start + PART_BYTES]
                self._unheard.append((part, start + PART_BYTES >= len(packed)))
            self._unheard_bytes += len(packed)
            self._answer()

    def poll(self, number: int, seconds: float, room: int) -> Future[Answer]:
        found: Future[Answer] = Future()
        with self._changed:
            self._heard_at = time.monotonic()
            if number > self._answered[0]:
                self._give_up_poll()  # it came again, because it was taken for lost
            if number <= self._answered[0]:  # or it is a copy that comes late: for an older one nobody waits
                said = self._answered[1] if number == self._answered[0] else ()
                found.set_result((said, None))
                return found
            self._poll = number, self._heard_at + seconds, room, found
            self._answer()
        return found

    def look(self, now: float) -> float:
        """Answer a poll that has waited long enough; return for how long the caller has not been heard of."""
        with self._changed:
            if self._poll is not None:
                self._heard_at = now  # that he waits for an answer is a sign of life too
                if now >= self._poll[1]:
                    self._give_up_poll()
            return now - self._heard_at

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._give_up_poll()
            self._changed.notify_all()
        if (
            self._working is not None
        ):  # not under the lock: it may be held by who tells it something that it does not hear
            self._working.end()

    def _give_up_poll(self) -> None:
        if self._poll is not None:
            number, _, _, found = self._poll
            self._reply(number, (), found)

    def _answer(self) -> None:
        """Have the poll, if there is one, bring what is there, and no more things than there is room for."""
        if self._poll is None or not self._unheard:
            return
        number, _, room, found = self._poll
        said: list[tuple[bytes, bool]] = []
        size = 0
        while self._unheard and room > 0 and size < PART_BYTES:
            said.append(self._unheard.popleft())
            size += len(said[-1][0])
            room -= said[-1][1]
        if said:
            self._unheard_bytes -= size
            self._reply(number, tuple(said), found)
            self._changed.notify_all()

    def _reply(self, number: int, said: Said, found: Future[Answer]) -> None:
        self._poll = None
        self._answered = number, said
        found.set_result((said, None))
