"""Waiting for the engine so that Ctrl-C, and the end of the store, are heard at once."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import threading
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eau2.errors import Eau2Error, QueryError
from eau2.store.nodes import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.query.reads import Reads

Answer = TypeVar("Answer")

_LOOK_SECONDS = 60.0  # a bound on one wait; the loop around it waits on
_AT_EXIT_SECONDS = 2.0  # for all threads together: the engine looks once a second, and later where a step takes longer


class _Call(Generic[Answer]):
    def __init__(self, function: Callable[[], Answer]) -> None:
        self.function = function
        self.done = threading.Lock()
        self.done.acquire()
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.ended: Eau2Error | None = None  # why nobody waits for it any more

    def end(self, why: Eau2Error) -> None:
        self.ended = why
        self.finish()

    def finish(self) -> None:
        """Wake who waits. It may have been woken before, by `Calls.end`."""
        with contextlib.suppress(RuntimeError):
            self.done.release()


class _Caller:
    """A thread that makes calls, one after the other, for another."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.calls: SimpleQueue[_Call[object]] = SimpleQueue()
        self._abandoned = False
        self._began = threading.Event()
        self.thread = threading.Thread(target=self._run, name="eau2-query", daemon=True)
        _callers.add(self)
        self.thread.start()

    def abandon(self) -> None:
        """Interrupt the call that runs, and end. The engine looks for this every second, and then drops the query."""
        # It is hit within `_run`, which has begun and has no reason to end yet: elsewhere Python would print a trace.
        self._began.wait(_LOOK_SECONDS)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self.thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
        )
        self._abandoned = True
        self.calls.put(_Call(lambda: None))  # wakes it, should it have been done just now

    def end(self) -> None:
        """Let the idle thread end, and wait for that."""
        self._abandoned = True
        self.calls.put(_Call(lambda: None))
        self.thread.join(1.0)

    def _run(self) -> None:
        try:
            self._began.set()
            while not self._abandoned:
                call = self.calls.get()
                try:
                    call.answer = call.function()
                except BaseException as error:  # handed to the caller, who raises it
                    call.error = error
                call.finish()
                del call
        except KeyboardInterrupt:
            pass  # abandoned between two calls
        finally:
            _callers.discard(self)


_idle: list[_Caller] = []  # of all who ask and close; `pop` and `append` are atomic
_callers: set[_Caller] = set()  # whose threads run, also of those that were abandoned


@atexit.register
def _end_all() -> None:
    """Abandon every call, and wait until its thread has ended.

    A thread that is within the engine when the interpreter is gone asks it for its lock at the next look, and crashes.
    """
    callers = [caller for caller in list(_callers) if caller.pid == os.getpid()]  # a forked child has no such threads
    for caller in callers:
        caller.abandon()
    until = monotonic() + _AT_EXIT_SECONDS
    for caller in callers:
        caller.thread.join(max(0.0, until - monotonic()))


def end_idle() -> None:
    """End the threads that wait for a call, so that a closed store leaves none. The next query makes its own."""
    while (caller := _take_idle()) is not None:
        caller.end()


def _take_idle() -> _Caller | None:
    while _idle:
        try:
            caller = _idle.pop()
        except IndexError:
            return None
        if caller.pid == os.getpid():  # in a forked child there is no such thread
            return caller
    return None


class Asker:
    """Who asks an engine on behalf of somebody who may go away. One thread at a time asks; any may `leave`.

    Askers nest: what an inner one waits for ends too when an outer one leaves.
    patient: whoever leaves can wait for a part of an answer that is about to come.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._lock = threading.Lock()  # guards both below
        self._end: Callable[[Eau2Error], None] | None = None  # what its thread waits for
        self._left = False
        self._patient = patient
        self.reads: Reads | None = None  # what the engine says that it has read; see `reads.py`
        self._outer: Asker | None = None  # of the thread that asks

    @property
    def has_left(self) -> bool:
        return self._left

    @property
    def is_patient(self) -> bool:
        """Whether all on whose behalf its thread asks are."""
        return self._patient and (self._outer is None or self._outer.is_patient)

    def run(self, function: Callable[[], Answer]) -> Answer:
        """Return `function()`. What it waits for of an engine ends with QueryError, at once, when somebody leaves."""
        outer = _of_thread.asker
        _of_thread.asker, self._outer = self, outer
        try:
            return function()
        finally:
            _of_thread.asker, self._outer = outer, None

    def leave(self) -> None:
        """End what runs, and what is yet to begin."""
        with self._lock:
            self._left = True
            self._tell()

    def wait_for(self, end: Callable[[Eau2Error], None] | None) -> None:
        """Note what ends the wait of its thread, which is about to begin; None: it is over."""
        with self._lock:
            self._end = end
            if self._left:
                self._tell()
        if self._outer is not None:
            self._outer.wait_for(end)

    def _tell(self) -> None:
        if self._end is not None:
            self._end(ended())


def ended() -> QueryError:
    """Return the error of a query whose Asker has left."""
    return QueryError("the query was ended: nobody waits for its answer")


class _OfThread(threading.local):
    asker: Asker | None = None


_of_thread = _OfThread()


def asker() -> Asker | None:
    """Return on whose behalf this thread asks, if that may end."""
    return _of_thread.asker


@contextlib.contextmanager
def waiting(end: Callable[[Eau2Error], None]) -> Iterator[None]:
    """Within this, this thread waits for what `end` ends: called, in any thread, when this thread's Asker leaves."""
    on_behalf = asker()
    if on_behalf is None:
        yield
        return
    try:
        on_behalf.wait_for(end)
        yield
    finally:
        on_behalf.wait_for(None)


class Calls:
    """The calls of one engine that somebody waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both below
        self._running: set[_Call[Any]] = set()
        self._ended = False

    def run(self, function: Callable[[], Answer]) -> Answer:
        """Return `function()`; raise Ctrl-C, or StoreClosed after `end`, or QueryError when the thread's Asker leaves,
        at once, whatever the engine is doing.

        The engine itself looks for signals once a second, and for neither while its threads are busy with a join that
        grows; so another thread makes the call, and this one waits for that. Costs 20 us.
        """
        caller = _take_idle() or _Caller()  # none idle: the first query, or several at once
        call = _Call(function)
        with self._lock:
            if self._ended:
                _idle.append(caller)
                raise closed()
            self._running.add(call)
        caller.calls.put(call)  # type: ignore[arg-type]  # a queue of calls of any kind
        on_behalf = asker()
        try:
            if on_behalf is not None:
                on_behalf.wait_for(call.end)
            while not call.done.acquire(timeout=_LOOK_SECONDS):
                pass
            if call.ended:
                raise call.ended
        except BaseException:
            caller.abandon()
            raise
        finally:
            if on_behalf is not None:
                on_behalf.wait_for(None)
            with self._lock:
                self._running.discard(call)
        _idle.append(caller)
        if call.error is not None:
            try:
                raise call.error
            finally:
                # The error's trace has this frame: with `call` in it what the query held would wait for the collector.
                del call
        return call.answer  # type: ignore[return-value]  # set, as there was no error

    def end(self) -> None:
        """Have all calls raise StoreClosed where they are waited for, also those to come."""
        with self._lock:
            self._ended = True
            for call in self._running:
                call.end(closed())
