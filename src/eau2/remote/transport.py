"""The seam to other processes: one call and its answer. Everything else of a cluster is written over it, once.

Who has a `Transport` can ask the process `name` (a node, or the coordinator) for `method` with `arguments`. There
`server.py` has an `ask(method, arguments)` that comes to an `Answer`, which is what travels back: what was returned, or
what was raised, as a value, so that it arrives as itself. A driver waits for answers in its threads, a node in asyncio.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from eau2.cluster.peer import BYTES_PER_SECOND, Unreachable
from eau2.errors import Eau2Error
from eau2.store.nodes import Record, Write, closed

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from eau2.cluster.peer import Coordination, Peer
    from eau2.cluster.runtime import Lock
    from eau2.cluster.view import View

Value = TypeVar("Value")

COORDINATOR = "coordinator"
WAITS_HINT = "start it; or, if it never comes back, `eau2 drain NODE` gives up what only it has"
ANSWER_SECONDS = 2.0  # what is not answered by then is asked again: every request may come twice
CHUNK_SECONDS = 20.0  # for what reads or writes some chunks
POLL_SECONDS = 5.0  # for which a node is asked at once whether there was a write
WORK_SECONDS = 10.0  # for which it is asked at once whether long work is done
_SECONDS = {
    **dict.fromkeys(("get", "collect"), 5.0),  # values of 64 MiB come back by then
    **dict.fromkeys(("names", "records"), 10.0),
    **dict.fromkeys(("chunk", "copy", "mend", "stage", "link", "read", "lend", "marks", "node"), CHUNK_SECONDS),
    "changed": ANSWER_SECONDS + POLL_SECONDS,
    "work": ANSWER_SECONDS + WORK_SECONDS,
}
_QUIET_SECONDS = 1.5  # after so long without an answer, and then each _AGAIN_SECONDS, it is asked whether a node lives
_AGAIN_SECONDS = 0.25

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # by their place, and by name; all can be pickled
Answer = tuple[Any, Exception | None]  # what was returned, or raised


class Pending(Protocol):
    """A call that was sent. Its answer is waited for in a thread (`result`) or in asyncio (`await`), once.

    Returns what the method returned; raises what it raised, or Unreachable when no answer came in the time that the
    call was given, or when the process is gone: what was asked may or may not have been done.
    """

    def result(self) -> Any: ...

    def arrives(self, seconds: float) -> bool:
        """Whether `result` has, within `seconds`, nothing to wait for any more."""

    def __await__(self) -> Generator[Any, None, Any]: ...


class Transport(Protocol):
    """How calls travel. Thread-safe."""

    def call(self, name: str, method: str, arguments: Arguments, timeout_seconds: float) -> Pending:
        """Send a call to the process `name`, at once and without waiting; also when there is no such process: then the
        answer is Unreachable."""


class Arriving:
    """The `Pending` of what comes as a `concurrent.futures.Future` of an Answer."""

    def __init__(self, name: str, future: concurrent.futures.Future[Answer], timeout_seconds: float) -> None:
        self._name = name
        self._future = future
        self._deadline = time.monotonic() + timeout_seconds

    def result(self) -> Any:
        try:
            answer = self._future.result(max(0.0, self._deadline - time.monotonic()))
        except (TimeoutError, concurrent.futures.CancelledError):
            raise Unreachable(self._name) from None
        return opened(answer)  # it may raise a TimeoutError of there

    def arrives(self, seconds: float) -> bool:
        left = max(0.0, self._deadline - time.monotonic())
        try:
            self._future.exception(min(seconds, left))
        except TimeoutError:
            return left <= seconds
        except concurrent.futures.CancelledError:
            return True
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        return self._arrive().__await__()

    async def _arrive(self) -> Any:
        left = max(0.0, self._deadline - time.monotonic())
        arrived = asyncio.wrap_future(self._future)
        done, _ = await asyncio.wait([arrived], timeout=left)
        if not done:
            arrived.cancel()
            raise Unreachable(self._name)
        return self.result()


def opened(answer: Answer) -> Any:
    """Return, or raise, what `answer` says."""
    value, error = answer
    if error is not None:
        raise error
    return value


# -- not to wait for the dead ------------------------------------------------------------------------------------------


def view_without(transport: Transport, name: str) -> View | None:
    """Return the view there is now if the cluster has gone on without node `name` in it; None also when nobody says."""
    try:
        view: View = transport.call(COORDINATOR, "suspect", ((name,), {}), ANSWER_SECONDS).result()
    except (Unreachable, Eau2Error):
        return None
    return view if name not in view.present else None


def answer_of(transport: Transport, name: str, pending: Pending, learn: Callable[[View], object] | None = None) -> Any:
    """Return what node `name` answers. Unreachable as soon as the cluster has gone on without it, however long the
    call may take: `learn` is told of the view."""
    quiet = _QUIET_SECONDS
    while not pending.arrives(quiet):
        view = view_without(transport, name)
        if view is not None:
            if learn is not None:
                learn(view)
            raise Unreachable(name)
        quiet = _AGAIN_SECONDS
    return pending.result()


# -- Peer and Coordination over it ------------------------------------------------------------------------------------


class _Remote:
    """Another process: each method sends a call and returns what can be awaited."""

    def __init__(self, transport: Transport, name: str, wrap: Any) -> None:
        self._transport, self._name, self._wrap = transport, name, wrap

    def __getattr__(self, method: str) -> Any:
        transport, name, wrap = self._transport, self._name, self._wrap

        def call(*arguments: Any, **named: Any) -> Any:
            return wrap(transport.call(name, method, (arguments, named), patience(method, arguments)))

        self.__dict__[method] = call  # found at once the next time
        return call


def patience(method: str, arguments: Sequence[Any]) -> float:
    """Return for how many seconds to wait for an answer: more, the more bytes are sent."""
    several = (one for argument in arguments if isinstance(argument, (tuple, list)) for one in argument)
    size = sum(len(one.payload) for one in several if isinstance(one, (Record, Write)))
    return _SECONDS.get(method, ANSWER_SECONDS) + size / BYTES_PER_SECOND


class _Waited:
    """What can be awaited where nothing waits on an event loop: it blocks the thread until the answer is there."""

    __slots__ = ("_pending",)

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        return self._pending.result()


class _Far:
    """What the two kinds of `Runtime` have in common: who is asked, over `transport`."""

    def __init__(self, transport: Transport, wrap: Any) -> None:
        self.chance = random.Random()
        self._transport = transport
        self._wrap = wrap
        self._remotes: dict[str, _Remote] = {}

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)  # it goes on while a machine is suspended, as leases do

    def peer(self, name: str) -> Peer:
        found = self._remotes.get(name)
        if found is None:
            found = self._remotes[name] = _Remote(self._transport, name, self._wrap)
        return cast("Peer", found)

    def coordinator(self) -> Coordination:
        return cast("Coordination", self.peer(COORDINATOR))


class ThreadRuntime(_Far):
    """The `Runtime` of drivers: coroutines are run to their end by `finish`, and the thread waits in them.

    closed: set when the store is, to end every sleep with StoreClosed.
    """

    def __init__(self, transport: Transport, closed: threading.Event) -> None:
        super().__init__(transport, _Waited)
        self._closed = closed

    async def sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise closed()

    async def together(self, calls: Sequence[Awaitable[Value]]) -> list[Value | BaseException]:
        answers: list[Value | BaseException] = []
        for call in calls:  # all have been sent by now
            try:
                answers.append(await call)
            except Exception as error:
                answers.append(error)
        return answers

    def lock(self, name: str) -> Lock:
        raise AssertionError("a driver orders nothing")


class LoopLock:
    """A `Lock` for the coroutines of one event loop: the process has its node alone."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def acquire(self) -> Sequence[str]:
        await self._lock.acquire()  # not for ever: whoever holds it gives up when the lease is over
        return ()

    def note(self, keys: Sequence[str]) -> None: ...

    def release(self) -> None:
        self._lock.release()


class LoopRuntime(_Far):
    """The `Runtime` of members: their coroutines run in asyncio."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, lambda pending: pending)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def together(self, calls: Sequence[Awaitable[Value]]) -> list[Value | BaseException]:
        return await asyncio.gather(*calls, return_exceptions=True)

    def lock(self, name: str) -> Lock:
        return LoopLock()
