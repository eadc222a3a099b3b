"""Instances of a program in processes of their own, on nodes that are: the caller's side, and theirs.

The caller is where they meet. An instance asks it, with its number for each question, and tells it what it prints and
what it came to; the caller answers, and says when the run has failed. All that is a `Job`'s to carry.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import sys
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from eau2.errors import Eau2Error, InvalidOption, ProgramFailed
from eau2.programs.application import Ended
from eau2.query.crossing import error_text, pack, unpack
from eau2.query.modules import Modules, own_modules

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.programs.application import Application
    from eau2.programs.meeting import Meeting
    from eau2.programs.printing import Output
    from eau2.store.jobs import Job, Jobs

_HEARD_MAX = 1000  # lines that the caller has not printed yet; more wait on the node, and the program for that
_WAIT_SECONDS = 0.5  # a bound on one wait; the loop around it waits on


class ProgramOrder(NamedTuple):
    """What the job of an instance is begun with."""

    program: bytes  # the class and its parameters, which only the instance looks into
    modules: Modules
    folder: str  # where the caller is: so is the instance, if there is such a folder on its machine
    names: tuple[str, ...]
    node: int

    @classmethod
    def of(cls, program: type[Application], values: dict[str, object], names: tuple[str, ...]) -> ProgramOrder:
        """Return the order for node 0. InvalidOption when the program cannot be sent."""
        try:
            return cls(pack((program, values)), own_modules(), os.getcwd(), names, 0)
        except Exception as error:
            raise InvalidOption(
                f"{program.__name__} cannot be sent to the nodes: {error_text(error)}",
                hint="it holds what is not pickled, such as an open file or a store",
            ) from error


class Asked(NamedTuple):
    """Told by an instance: a question, which is a call of the `Meeting`."""

    number: int
    method: Literal["meet", "agreed"]
    arguments: tuple[Any, ...]


class Replied(NamedTuple):
    """Told to an instance: the answer."""

    number: int
    value: Any
    error: Exception | None


class Printed(NamedTuple):
    """Told by an instance: a line."""

    line: str


class Finished(NamedTuple):
    """Told by an instance, last of all: what it returned, or raised and where."""

    value: bytes
    error: bytes = b""
    line: int = 0


class ProcessEnded(NamedTuple):
    """Told by the node: the instance's process has ended. Its exit code, or minus the signal's number."""

    code: int


class End(NamedTuple):
    """Told to an instance: the run has failed."""


# -- the caller's side ------------------------------------------------------------------------------------------------


class FarSeat:
    """A process on the node, which hears of the others through this thread."""

    def __init__(self, jobs: Jobs, order: ProgramOrder, meeting: Meeting) -> None:
        self._jobs, self._order, self._meeting = jobs, order, meeting
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._job: Job | None = None
        self._finished = False
        self._line = 0

    def run(self, out: Output | None, show: Callable[[str], object] | None) -> Any:
        self._job = self._jobs.begin(self._order.names[self._order.node], "program", self._order, self)
        try:
            while not isinstance(said := self._next(), (Finished, ProcessEnded, Eau2Error)):
                if isinstance(said, Printed):
                    _show(said.line, show)
                elif isinstance(said, Asked):
                    self._reply(said)
                else:
                    self._job.tell(said)
        finally:
            self._job.end()
        return self._outcome(said)

    def interrupt(self) -> None:
        self._heard.put(End())  # told in the other thread: a node that does not answer holds up nobody else

    def line(self, error: BaseException) -> int:
        return self._line

    # -- what the job says, in a thread of the job

    def hear(self, told: Any) -> None:
        if isinstance(told, Asked) and told.method == "agreed" and self._job:  # now: the thread may be at a barrier
            self._reply(told)
            return
        if isinstance(told, Finished):
            self._finished = True
        elif isinstance(told, ProcessEnded) and not self._finished:
            self._meeting.fail(self._order.node, _died(told.code))
        self._heard.put(told)

    def lost(self, error: Eau2Error) -> None:
        self._meeting.fail(self._order.node, error)
        self._heard.put(error)

    def room(self) -> int:
        return max(0, _HEARD_MAX - self._heard.qsize())

    # -- private

    def _next(self) -> Any:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._heard.get(timeout=_WAIT_SECONDS)

    def _reply(self, asked: Asked) -> None:
        value, failure = None, None
        given = (self._order.node, *asked.arguments) if asked.method == "meet" else asked.arguments
        try:
            value = getattr(self._meeting, asked.method)(*given)
        except Ended:  # the instance is told by `interrupt`
            return
        except Exception as error:
            failure = error
        assert self._job is not None
        with contextlib.suppress(Eau2Error):  # `lost` says so
            self._job.tell(Replied(asked.number, value, failure))

    def _outcome(self, said: Any) -> Any:
        if isinstance(said, Eau2Error):
            raise said
        if isinstance(said, ProcessEnded):
            raise _died(said.code)
        self._line = said.line
        if said.error:
            raise unpack(said.error)
        return unpack(said.value)


def _died(code: int) -> ProgramFailed:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return ProgramFailed(f"its process {how}", hint="it called os._exit, crashed, or the machine was out of memory")


def _show(line: str, show: Callable[[str], object] | None) -> None:
    if show is None:
        print(line, flush=True)
    else:
        show(line)
        sys.stdout.flush()


# -- the instance's side ----------------------------------------------------------------------------------------------


class FarMeeting:
    """The `Meeting` of a run whose caller is another process: `say` tells it something. Thread-safe."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        self._say = say
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards what is below
        self._asked: dict[int, Future[Any]] = {}
        self._ended = False

    def check(self) -> None:
        if self._ended:
            raise Ended

    def meet(self, node: int, name: str, timeout_seconds: float) -> None:
        self._ask("meet", name, timeout_seconds)

    def agreed(self, subject: tuple[str, int], proposal: tuple[str, ...]) -> tuple[str, ...]:
        found: tuple[str, ...] = self._ask("agreed", subject, proposal)
        return found

    def replied(self, reply: Replied) -> None:
        """Hand the caller's answer to who asked."""
        with self._lock:
            found = self._asked.pop(reply.number, None)
        if found is None:  # the run has failed meanwhile
            return
        if reply.error is None:
            found.set_result(reply.value)
        else:
            found.set_exception(reply.error)

    def end(self) -> None:
        """The run has failed: who waits for an answer gets Ended."""
        self._ended = True
        with self._lock:
            asked = list(self._asked.values())
            self._asked.clear()
        for answer in asked:
            answer.set_exception(Ended())

    def _ask(self, method: Literal["meet", "agreed"], *arguments: Any) -> Any:
        answer: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            self._asked[number] = answer
        self._say(Asked(number, method, arguments))
        while not answer.done():
            self.check()
            wait([answer], _WAIT_SECONDS)
        return answer.result()
