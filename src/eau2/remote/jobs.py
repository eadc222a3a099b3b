"""Jobs as a caller has them: begun, told and heard over a `Transport`. What a node does for them: `work.py`.

What a job says is fetched: a call waits on the node until there is something. These calls also tell the node that the
caller lives. A call without an answer is sent again with the same number, and so is done once.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import BYTES_PER_SECOND, Unreachable
from eau2.errors import Eau2Error, NodeUnavailable
from eau2.query.crossing import error_text
from eau2.remote.transport import ANSWER_SECONDS, answer_of, view_without
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from eau2.remote.transport import Arguments, Transport
    from eau2.store.jobs import Ear

GONE_SECONDS = 5.0  # a node that has not answered for so long has lost its jobs; less than work.SILENT_SECONDS
_POLL_SECONDS = 1.0
_ROOM_SECONDS = 0.1  # between two looks whether the ear has room again
_AGAIN_SECONDS = 0.1


class FarJobs:
    """The `Jobs` of one driver."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._process = os.getpid()
        self._lock = threading.Lock()  # guards what is below
        self._jobs: set[FarJob] = set()
        self._closed = False

    def begin(self, node: str, kind: str, order: Any, ear: Ear) -> FarJob:
        if os.getpid() != self._process:
            raise closed(forked=True)
        job = FarJob(self._transport, node, ear, self._forget)
        with self._lock:
            if self._closed:
                raise closed()
            self._jobs.add(job)
        try:
            job.begin(kind, order)
        except BaseException:
            job.end()
            raise
        return job

    def _forget(self, job: FarJob) -> None:
        with self._lock:
            self._jobs.discard(job)

    def close(self) -> None:
        """End all jobs; whoever waits for one gets StoreClosed. Idempotent."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
        for job in jobs:
            job.lose(closed())


class FarJob:
    """A `Job` on the node called `node`."""

    def __init__(self, transport: Transport, node: str, ear: Ear, forget: Any) -> None:
        self.capacity = 0
        self._transport, self._node, self._ear, self._forget = transport, node, ear, forget
        self._id = uuid.uuid4().hex
        self._telling = threading.Lock()  # guards the number: things are told in order
        self._told = 0
        self._losing = threading.Lock()  # guards the one below
        self._error: Eau2Error | None = None
        self._ended = threading.Event()

    def begin(self, kind: str, order: Any) -> None:
        packed = pickle.dumps(order)
        try:
            self.capacity = self._ask("begin_job", kind, packed, seconds=len(packed) / BYTES_PER_SECOND)
        except Unreachable:
            raise self._gone() from None
        threading.Thread(target=self._listen, name="eau2-job", daemon=True).start()

    def tell(self, thing: Any) -> None:
        packed = pickle.dumps(thing)
        with self._telling:
            if self._error is not None:
                raise self._error
            self._told += 1
            try:
                self._ask("tell_job", self._told, packed, seconds=len(packed) / BYTES_PER_SECOND)
                return
            except Unreachable:
                error: Eau2Error = self._gone()
            except NodeUnavailable as lost:
                error = lost
        if not self._ended.is_set():
            self.lose(error)
        raise error

    def end(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._transport.call(self._node, "end_job", ((self._id,), {}), ANSWER_SECONDS)
            self._forget(self)

    def lose(self, error: Eau2Error) -> None:
        """Nothing more is heard of this job, because of `error`."""
        with self._losing:
            if self._error is not None or self._ended.is_set():
                return
            self._error = error
        try:
            self.end()
        finally:  # whoever waits hears of it, whatever becomes of the call
            self._ear.lost(error)

    def _gone(self) -> NodeUnavailable:
        return NodeUnavailable(f"{self._node} does not answer", hint="see whether it lives")

    def _ask(self, method: str, *given: Any, seconds: float) -> Any:
        """Return the answer of the node, which may take `seconds` to come to it. Unreachable: the cluster has gone on
        without it, or it has lost its jobs."""
        patience = time.monotonic() + max(GONE_SECONDS, seconds)
        while True:
            try:
                arguments: Arguments = ((self._id, *given), {})
                pending = self._transport.call(self._node, method, arguments, ANSWER_SECONDS + seconds)
                return answer_of(self._transport, self._node, pending)
            except Unreachable:
                is_dead = view_without(self._transport, self._node) is not None
                if is_dead or time.monotonic() >= patience or self._ended.wait(_AGAIN_SECONDS):
                    raise

    def _listen(self) -> None:
        """Hear what the job says until it ends. Whatever is raised loses the job: who waits for it would wait for ever
        if only this thread ended."""
        try:
            self._hear()
        except Unreachable:
            self.lose(self._gone())
        except Eau2Error as error:
            self.lose(error)
        except Exception as error:
            self.lose(NodeUnavailable(f"what {self._node} says cannot be taken in: {error_text(error)}"))

    def _hear(self) -> None:
        number, parts = 0, bytearray()
        while not self._ended.is_set():
            number += 1
            room = self._ear.room()
            seconds = _POLL_SECONDS if room > 0 else _ROOM_SECONDS
            said = self._ask("hear_job", number, seconds, room, seconds=seconds)
            for part, is_last in said:
                parts += part
                if is_last:
                    thing = pickle.loads(parts)
                    parts.clear()
                    if not self._ended.is_set():
                        self._ear.hear(thing)
