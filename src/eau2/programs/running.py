"""`eau2.run`: a program on every node of a store at once, each in a thread of this process."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eau2.errors import Eau2Error, InvalidOption, ProgramFailed, WaitTimeout, WrongKind
from eau2.programs.application import Application, Ended
from eau2.programs.meeting import Meeting
from eau2.programs.parameters import checked
from eau2.programs.printing import output
from eau2.programs.program_store import ProgramStore
from eau2.programs.tracing import last_line
from eau2.query.crossing import error_text
from eau2.store.arguments import checked_seconds
from eau2.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import TypeAlias

    from eau2.programs.printing import Output

    Show: TypeAlias = Callable[[str, str], object]  # what is done with (a node's name, a line that it printed)

# How long a run that has failed waits for the nodes that have not noticed, because native code (a query, numpy, a
# sleep) does not come back to Python. They are left then, and end when it does. After Ctrl-C it is shorter.
GRACE_SECONDS = 5.0
INTERRUPTED_GRACE_SECONDS = 0.3
_THREAD = "eau2-program-"  # then the node's name


def run(
    program: type[Application], /, *, on: Store, timeout_seconds: float | None = None, **parameters: object
) -> list[Any]:
    """Run `program` on every node of the store `on` at once; return what its `run` returned, in the order of the nodes.

    Each node has a thread of this process. `parameters` are converted by the program's annotations; text will do.

    Raises ProgramFailed when `run` raises on a node: it names the node and the line of the program's file, and has the
    exception as its `__cause__`. The others are ended first; see Application. So they are on Ctrl-C, and with
    WaitTimeout after `timeout_seconds`. InvalidOption for parameters that the program has not, or that do not fit.
    """
    seconds = None if timeout_seconds is None else checked_seconds(timeout_seconds)
    return Run(program, on, parameters).results(seconds)


class Run:
    """One run of a program. `show` is given the lines that are printed; by default they go to standard output."""

    def __init__(
        self, program: type[Application], store: Store, parameters: dict[str, object], *, show: Show | None = None
    ) -> None:
        _check(program, store)
        self.names = store.nodes
        self._program = program
        self._values = checked(program, parameters)
        self._meeting = Meeting(self.names)
        self._parts = [self._part(index, store) for index in range(len(self.names))]
        self._results: list[Any] = [None] * len(self.names)
        self._show = show
        self._threads: list[threading.Thread] = []

    def results(self, timeout_seconds: float | None = None, *, order: Iterable[int] | None = None) -> list[Any]:
        """Run it, once; see `run`. `order` is the one in which the nodes start."""
        grace = GRACE_SECONDS
        with contextlib.ExitStack() as stack:
            # The only node's lines need no label, and so print as if there were none of this.
            out = stack.enter_context(output()) if len(self.names) > 1 or self._show else None
            try:
                for index in range(len(self.names)) if order is None else order:
                    self._start(index, out)
                if not self._meeting.wait_for_end(timeout_seconds):
                    late = f"{self._program.__name__} did not end within {timeout_seconds} seconds, and was ended"
                    self._meeting.fail(None, WaitTimeout(late))  # unless a node has failed: that ended the wait
            except BaseException as error:  # Ctrl-C, above all
                self._meeting.fail(None, error)
                grace = INTERRUPTED_GRACE_SECONDS
            self._end(grace)
        if self._meeting.failure is None:
            return self._results
        node, cause = self._meeting.failure
        if node is None:
            raise cause
        raise self._failed(node, cause) from cause

    def _part(self, index: int, store: Store) -> ThreadPart:
        guard = Guard(self._meeting)
        return ThreadPart(index, self.names, cast("Store", ProgramStore(store, guard)), guard)

    def _start(self, index: int, out: Output | None) -> None:
        name = _THREAD + self.names[index]
        thread = threading.Thread(target=self._take_part, args=(index, out), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _take_part(self, index: int, out: Output | None) -> None:
        part = self._parts[index]
        try:
            with out.shown_by(self._printed(index, out)) if out else contextlib.nullcontext():
                self._results[index] = part.guard.run(lambda: self._instance(part).run())
        except BaseException as error:  # raised at the caller, unless it is the end that another failure brings
            self._meeting.fail(index, error)
        finally:
            self._meeting.leave(index)

    def _instance(self, part: ThreadPart) -> Application:
        program = self._program()
        program._part = part
        for name, value in self._values.items():
            setattr(program, name, value)
        return program

    def _printed(self, index: int, out: Output) -> Callable[[str], object]:
        name, show = self.names[index], self._show
        if show is not None:
            return lambda line: show(name, line)
        return lambda line: out.pass_on(f"{name} | {line}\n")

    def _end(self, grace: float) -> None:
        """Wait for all threads. When the run has failed, end them first, and wait for `grace` seconds at most."""
        if self._meeting.failure is not None:
            for part in self._parts:
                part.guard.interrupt()
        deadline = time.monotonic() + grace
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _failed(self, index: int, error: BaseException) -> ProgramFailed:
        """Return the error for the caller: the program failed on a node with `error`."""
        file = self._program.run.__code__.co_filename
        line = last_line(file, error)
        where = f"{self.names[index]}, line {line} of {Path(file).name}" if line else self.names[index]
        what, hint = error_text(error), ""  # KeyMissing finds its hint when it is first read
        if isinstance(error, Eau2Error):
            what, hint = error.message, error.hint
        busy = [thread.name.removeprefix(_THREAD) for thread in self._threads if thread.is_alive()]
        if busy:
            hint = f"not ended yet, as native code or a sleep holds them: {', '.join(busy)}"
        return ProgramFailed(
            f"{self._program.__name__} failed on {where}: {what}", node=self.names[index], line=line, hint=hint
        )


class Guard:
    """Where the thread of a node is: within a call of eau2, or in the program's own code, where it can be interrupted.

    As a context manager it is a call of eau2. An exception out of nowhere, as `interrupt` sends, may there leave a
    write without its end, and so the call is let come to it; Ended is raised then, when the run has failed.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self._lock = threading.Lock()  # guards everything below
        self._calls = 1  # under way; 0 in the program's own code
        self._thread = 0
        self._interrupted = False

    def __enter__(self) -> None:
        self.meeting.check()
        with self._lock:
            self._take_back()
            self._calls += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._calls -= 1
        if error is None:
            self.meeting.check()

    def run(self, function: Callable[[], Any]) -> Any:
        """Return `function()`, which is the program's own code, in this thread."""
        self.meeting.check()
        with self._lock:
            self._calls, self._thread = 0, threading.get_ident()
        try:
            return function()
        finally:
            with self._lock:
                self._calls = 1
                self._take_back()

    def interrupt(self) -> None:
        """Raise Ended in the thread, once, at its next step in the program's own code."""
        with self._lock:
            if not self._calls and not self._interrupted:
                self._interrupted = True
                _raise_in(self._thread, Ended)

    def _take_back(self) -> None:
        """Whatever was sent and has not arrived shall not, from here on."""
        if self._interrupted and threading.get_ident() == self._thread:
            # Not by sending nothing: Python 3.11 then keeps looking for it, and a thread that is traced hangs.
            with contextlib.suppress(Ended):
                _raise_in(self._thread, Ended)  # in place of what may be on its way
                while True:  # it comes with the next step
                    pass


@dataclass(frozen=True, slots=True)
class ThreadPart:
    """A Part whose others are threads of this process."""

    index: int
    names: tuple[str, ...]
    store: Store
    guard: Guard

    def check(self) -> None:
        self.guard.meeting.check()

    def meet(self, name: str, timeout_seconds: float) -> None:
        with self.guard:
            self.guard.meeting.meet(self.index, name, timeout_seconds)

    def agreed(self, subject: tuple[str, int], proposal: tuple[str, ...]) -> tuple[str, ...]:
        return self.guard.meeting.agreed(subject, proposal)


def _check(program: object, store: object) -> None:
    if not (isinstance(program, type) and issubclass(program, Application)):
        raise WrongKind(f"a program is a class, a kind of eau2.Application, not {program!r:.80}")
    if inspect.isabstract(program):
        raise InvalidOption(f"{program.__name__} is no whole program", hint="give it `def run(self)`")
    if not isinstance(store, Store):
        raise WrongKind(f"a program runs on a store, not on {store!r:.80}", hint="on=eau2.open('data/')")


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
