"""`eau2.run`: a program on every node of a store at once."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eau2.errors import Eau2Error, InvalidOption, ProgramFailed, WaitTimeout, WrongKind
from eau2.programs.application import Application
from eau2.programs.far import FarSeat, ProgramOrder
from eau2.programs.instance import Guard, run_instance
from eau2.programs.meeting import Meeting
from eau2.programs.parameters import checked
from eau2.programs.printing import output
from eau2.programs.tracing import last_line
from eau2.query.crossing import error_text
from eau2.store.arguments import checked_seconds
from eau2.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
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

    Each node has a thread of this process; a node that is a process of its own has a process for it, whose store is
    one of its own. `parameters` are converted by the program's annotations; text will do.

    Raises ProgramFailed when `run` raises on a node: it names the node and the line of the program's file, and has the
    exception as its `__cause__`. The others are ended first; see Application. So they are on Ctrl-C, and with
    WaitTimeout after `timeout_seconds`. InvalidOption for parameters that the program has not, or that do not fit, and
    for a program that cannot be sent. A node that dies fails the run.
    """
    seconds = None if timeout_seconds is None else checked_seconds(timeout_seconds)
    return Run(program, on, parameters).results(seconds)


class Seat(Protocol):
    """Where the instance of one node runs."""

    def run(self, out: Output | None, show: Callable[[str], object] | None) -> Any:
        """Run it; return, or raise, what it does. `show` is given what it prints, or that goes to standard output."""

    def interrupt(self) -> None:
        """End it, without waiting for that: the run has failed."""

    def line(self, error: BaseException) -> int:
        """Return the line of the program's file that raised `error`, or 0."""


class Run:
    """One run of a program. `show` is given the lines that are printed; by default they go to standard output."""

    def __init__(
        self, program: type[Application], store: Store, parameters: dict[str, object], *, show: Show | None = None
    ) -> None:
        _check(program, store)
        self.names = store.nodes
        self._program = program
        self._meeting = Meeting(self.names)
        self._seats = self._seated(store, checked(program, parameters))
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

    def _seated(self, store: Store, values: dict[str, object]) -> list[Seat]:
        jobs, indexes = store.node.jobs, range(len(self.names))
        if jobs is None:
            return [ThreadSeat(self._program, values, index, self.names, store, self._meeting) for index in indexes]
        order = ProgramOrder.of(self._program, values, self.names)
        return [FarSeat(jobs, order._replace(node=index), self._meeting) for index in indexes]

    def _start(self, index: int, out: Output | None) -> None:
        name = _THREAD + self.names[index]
        thread = threading.Thread(target=self._take_part, args=(index, out), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _take_part(self, index: int, out: Output | None) -> None:
        try:
            self._results[index] = self._seats[index].run(out, self._printed(index, out) if out else None)
        except BaseException as error:  # raised at the caller, unless it is the end that another failure brings
            self._meeting.fail(index, error)
        finally:
            self._meeting.leave(index)

    def _printed(self, index: int, out: Output) -> Callable[[str], object]:
        name, show = self.names[index], self._show
        if show is not None:
            return lambda line: show(name, line)
        return lambda line: out.pass_on(f"{name} | {line}\n")

    def _end(self, grace: float) -> None:
        """Wait for all threads. When the run has failed, end them first, and wait for `grace` seconds at most."""
        if self._meeting.failure is not None:
            for seat in self._seats:
                seat.interrupt()
        deadline = time.monotonic() + grace
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _failed(self, index: int, error: BaseException) -> ProgramFailed:
        """Return the error for the caller: the program failed on a node with `error`."""
        line, file = self._seats[index].line(error), Path(self._program.run.__code__.co_filename).name
        where = f"{self.names[index]}, line {line} of {file}" if line else self.names[index]
        what, hint = error_text(error), ""  # KeyMissing finds its hint when it is first read
        if isinstance(error, Eau2Error):
            what, hint = error.message, error.hint
        busy = [thread.name.removeprefix(_THREAD) for thread in self._threads if thread.is_alive()]
        if busy:
            hint = f"not ended yet, as native code or a sleep holds them: {', '.join(busy)}"
        return ProgramFailed(
            f"{self._program.__name__} failed on {where}: {what}", node=self.names[index], line=line, hint=hint
        )


class ThreadSeat:
    """The calling thread, of this process."""

    def __init__(
        self,
        program: type[Application],
        values: dict[str, object],
        index: int,
        names: tuple[str, ...],
        store: Store,
        meeting: Meeting,
    ) -> None:
        self._program, self._guard = program, Guard(meeting)
        self._instance = program, values, index, names, store, self._guard

    def run(self, out: Output | None, show: Callable[[str], object] | None) -> Any:
        with out.shown_by(show) if out and show else contextlib.nullcontext():
            return run_instance(*self._instance)

    def interrupt(self) -> None:
        self._guard.interrupt()

    def line(self, error: BaseException) -> int:
        return last_line(self._program.run.__code__.co_filename, error)


def _check(program: object, store: object) -> None:
    if not (isinstance(program, type) and issubclass(program, Application)):
        raise WrongKind(f"a program is a class, a kind of eau2.Application, not {program!r:.80}")
    if inspect.isabstract(program):
        raise InvalidOption(f"{program.__name__} is no whole program", hint="give it `def run(self)`")
    if not isinstance(store, Store):
        raise WrongKind(f"a program runs on a store, not on {store!r:.80}", hint="on=eau2.open('data/')")
