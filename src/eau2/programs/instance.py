"""An instance of a program in the thread that runs it, and how it is ended from another."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from eau2.programs.application import Ended
from eau2.programs.program_store import ProgramStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from eau2.programs.application import Application
    from eau2.store.store import Store


class Meets(Protocol):
    """Where an instance meets the others: a `Meeting`, or one in another process."""

    def check(self) -> None:
        """Raise Ended when the run has failed."""

    def meet(self, node: int, name: str, timeout_seconds: float) -> None:
        """Return when all nodes have called this with `name` as often as `node` has."""

    def agreed(self, subject: tuple[str, int], proposal: tuple[str, ...]) -> tuple[str, ...]:
        """Return what was first proposed for `subject`."""


def run_instance(
    program: type[Application],
    values: Mapping[str, object],
    index: int,
    names: tuple[str, ...],
    store: Store,
    guard: Guard,
) -> Any:
    """Make the instance of node `index`, with the parameters `values`, and return what its `run` returns."""

    def run() -> Any:
        instance = program()
        instance._part = NodePart(index, names, cast("Store", ProgramStore(store, guard)), guard)
        for name, value in values.items():
            setattr(instance, name, value)
        return instance.run()

    return guard.run(run)


class Guard:
    """Where the thread of a node is: within a call of eau2, or in the program's own code, where it can be interrupted.

    As a context manager it is a call of eau2. An exception out of nowhere, as `interrupt` sends, may there leave a
    write without its end, and so the call is let come to it; Ended is raised then, when the run has failed.
    """

    def __init__(self, meeting: Meets) -> None:
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
class NodePart:
    """One node's part in a run."""

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


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
