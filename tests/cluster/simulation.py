"""A world for the cluster's code: time is a number, and one seed decides every delay, loss, repetition and order.

Processes (members, the coordinator, clients) are coroutines that take turns; nothing runs at the same time as anything
else, and nothing is shared: what one sends another is pickled. A process can be killed where it waits or at a commit,
stand still, be slow in the middle of what it does, and be cut off. Its clock is its own.
"""

from __future__ import annotations

import contextlib
import pickle
import random
from collections import Counter, deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.errors import Eau2Error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

ANSWERS = (Eau2Error, WrongEpoch, NotServing, Unreachable, FileNotFoundError)  # what a request may raise; else a bug
CALL_TIMEOUT = 0.5
_EVER = -1  # of an event: meant for whoever has the name when it comes, not for one incarnation


MUTE = object()  # what a process serves that does not answer yet


class Killed(BaseException):
    """The process ends here: raised in what it was doing."""


class Future:
    """A value that comes later, awaited by one task at most."""

    __slots__ = ("done", "error", "value", "waiter")

    def __init__(self):
        self.done, self.value, self.error, self.waiter = False, None, None, None

    def __await__(self):
        if not self.done:
            yield self
        if self.error is not None:
            raise self.error
        return self.value

    def settle(self, value=None, error=None):
        if self.done:
            return
        self.done, self.value, self.error = True, value, error
        if self.waiter is not None:
            self.waiter.wake()


class Task:
    """A coroutine of a process. When it serves a call, its end is sent to the caller."""

    __slots__ = ("call", "coroutine", "ended", "part", "process", "since", "what")

    def __init__(self, process, coroutine, what, call=None, *, part=False):
        self.process, self.coroutine, self.what, self.call = process, coroutine, what, call
        self.part = part  # another task waits for it, and looks at what it raised
        self.ended, self.since = Future(), process.world.now
        process.tasks[self] = None
        self.wake()

    def __repr__(self):
        return f"{self.what} at {self.process.name} since {self.since:.3f}"

    def wake(self):
        process = self.process
        process.world.push(0.0, process, process.incarnation, self.step, None)

    def step(self, _):
        try:
            future = self.coroutine.send(None)
        except StopIteration as stop:
            self._end(stop.value, None)
        except ANSWERS as error:
            self._end(None, error)
        else:
            future.waiter = self  # a coroutine that awaits nothing but our futures yields nothing else

    def _end(self, value, error):
        del self.process.tasks[self]
        if self.call is not None:
            self.process.world.answer(self.call, value, error)
        elif error is not None and not self.part:
            raise AssertionError(f"{self} failed, and nobody waits for it") from error
        self.ended.settle(value, error)


class Call:
    """A request on its way. It leaves when it is awaited, or when `together` starts it."""

    __slots__ = ("answered", "caller", "incarnation", "method", "payload", "started", "target")

    def __init__(self, caller, target, method, payload):
        self.caller, self.target, self.method, self.payload = caller, target, method, payload
        self.incarnation, self.answered, self.started = caller.incarnation, Future(), False

    def __repr__(self):
        return f"{self.caller.name} > {self.target}.{self.method}"

    def start(self):
        if not self.started:
            self.started = True
            world, caller = self.caller.world, self.caller
            world.send(caller, world.processes[self.target], _EVER, world.serve, self)
            world.push(CALL_TIMEOUT / caller.rate + caller.lag, caller, self.incarnation, self._expire, None)
        return self.answered

    def __await__(self):
        return self.start().__await__()

    def _expire(self, _):
        if not self.answered.done:
            self.caller.world.trace and self.caller.world.trace(f"no answer: {self}")
            self.answered.settle(error=Unreachable(self.target))


class Process:
    """One process: what it serves, its tasks, its clock, and what is wrong with it now."""

    def __init__(self, world, name, *, offset=0.0, rate=1.0):
        self.world, self.name, self.offset, self.rate = world, name, offset, rate
        self.incarnation, self.serves = 0, None
        self.tasks: dict[Task, None] = {}
        self.held: list[tuple[int, Callable, Any]] = []  # what came while it stood still
        self.frozen_until = 0.0
        self.lag = 0.0  # seconds that the step under way has taken so far
        self.slow = 0.0  # the chance that an access to its disk takes long
        self.commits_to_live = 0  # it is killed at that one; 0: at none

    @property
    def alive(self) -> bool:
        return self.serves is not None

    def now(self) -> float:
        return self.offset + self.rate * (self.world.now + self.lag)

    def spawn(self, coroutine: Coroutine, what: str) -> Task:
        return Task(self, coroutine, what)

    def start(self, make: Callable[[SimRuntime], Any]) -> Any:
        """Begin a new life, in which the process serves what `make` returns."""
        self.incarnation += 1
        self.serves = make(SimRuntime(self))
        self.world.trace and self.world.trace(f"{self.name} starts")
        return self.serves

    def kill(self) -> None:
        """End all that it does where it is. Its memory is gone; its disk is not the process's."""
        if not self.alive:
            return
        self.world.trace and self.world.trace(f"{self.name} is killed")
        self.serves, self.frozen_until, self.lag, self.commits_to_live = None, 0.0, 0.0, 0
        self.incarnation += 1
        self.held.clear()
        tasks, self.tasks = self.tasks, {}
        for task in tasks:
            # It may wait in a `finally`, be the one that runs, or meet its dead disk: it ends all the same.
            with contextlib.suppress(RuntimeError, ValueError, Killed):
                task.coroutine.close()

    def freeze(self, seconds: float) -> None:
        """Stand still: what comes meanwhile waits. Its clock goes on."""
        if self.alive:
            self.frozen_until = max(self.frozen_until, self.world.now + seconds)
            self.world.push(self.frozen_until - self.world.now, None, 0, self._thaw, self.incarnation)

    def _thaw(self, incarnation):
        if incarnation == self.incarnation and self.world.now >= self.frozen_until:
            self.go_on()

    def go_on(self) -> None:
        """Stand still no longer: all that came meanwhile happens now, in its order."""
        self.frozen_until = 0.0
        held, self.held = self.held, []
        for incarnation, function, argument in held:
            self.world.push(0.0, self, incarnation, function, argument)


class World:
    """The clock, the queue of events, the processes and the links between them."""

    def __init__(self, seed: int | str, trace: Callable[[str], None] | None = None):
        self.random = random.Random(f"world {seed}")
        self.seed, self.now = seed, 0.0
        self.trace = (lambda text: trace(f"{self.now:9.4f} {text}")) if trace else None
        self.processes: dict[str, Process] = {}
        self.cuts: Counter[tuple[str, str]] = Counter()
        self.loss, self.repeats, self.delays = (
            0.0,
            0.0,
            0.0,
        )  # chances that a message is lost, repeated, long on its way
        self.messages = 0
        self._events: list[tuple[float, int, Process | None, int, Callable, Any]] = []
        self._pushed = 0

    def process(self, name: str, **clock) -> Process:
        process = self.processes[name] = Process(self, name, **clock)
        return process

    def push(self, delay, process, incarnation, function, argument):
        self._pushed += 1
        heappush(self._events, (self.now + delay, self._pushed, process, incarnation, function, argument))

    def after(self, delay: float, function: Callable[[Any], None], argument: Any = None) -> None:
        self.push(delay, None, 0, function, argument)

    def run(self, until: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until that time, or until it is `enough`, which is looked at after every event."""
        events = self._events
        while events and events[0][0] <= until and not enough():
            self.now, _, process, incarnation, function, argument = heappop(events)
            if process is None:
                function(argument)
                continue
            if process.serves is None or (incarnation != process.incarnation and incarnation != _EVER):
                continue
            if process.frozen_until > self.now:
                process.held.append((incarnation, function, argument))
                continue
            try:
                function(argument)
            except Killed:
                process.kill()
            if process.lag:
                lag, process.lag = process.lag, 0.0
                process.freeze(lag)
        if not enough():
            self.now = until

    # -- messages ---------------------------------------------------------------------------------------------------

    def send(self, source, target, incarnation, function, argument):
        self.messages += 1
        chance = self.random.random
        if source is not target:
            if self.cuts[source.name, target.name] or (self.loss and chance() < self.loss):
                if self.trace:
                    self.trace(f"lost on the way from {source.name} to {target.name}: {argument}")
                return
            if self.repeats and chance() < self.repeats:
                self.push(self._delay() + source.lag, target, incarnation, function, argument)
        self.push(self._delay() + source.lag, target, incarnation, function, argument)

    def _delay(self):
        chance = self.random.random
        if self.delays and chance() < self.delays:
            return 0.005 * 600 ** chance()  # up to 3 s: longer than any lease
        return 0.0005 + 0.004 * chance()

    def serve(self, call):
        process = self.processes[call.target]
        if process.serves is MUTE:
            return
        arguments, named = pickle.loads(call.payload)
        if self.trace:
            shown = ", ".join([*map(show, arguments), *(f"{name}={value}" for name, value in named.items())])
            self.trace(f"{call}({shown})")
        Task(process, getattr(process.serves, call.method)(*arguments, **named), call.method, call)

    def answer(self, call, value, error):
        if self.trace:
            self.trace(f"{call} returns {show(value) if error is None else repr(error)}")
        payload = pickle.dumps((value, error), 5)
        self.send(self.processes[call.target], call.caller, call.incarnation, self._answered, (call, payload))

    def _answered(self, answer):
        call, payload = answer
        if not call.answered.done:
            call.answered.settle(*pickle.loads(payload))


class SimLock:
    """Held by one coroutine at a time, given in the order they came. Dies with its process."""

    __slots__ = ("held", "waiting")

    def __init__(self):
        self.held, self.waiting = False, deque()

    async def acquire(self):
        if self.held:
            self.waiting.append(Future())
            await self.waiting[-1]
        self.held = True
        return ()

    def note(self, keys):
        """One process has a node here: nobody is left to be told."""

    def release(self):
        assert self.held, "released, but nobody holds it"
        if self.waiting:
            self.waiting.popleft().settle()  # stays held: nobody may come between
        else:
            self.held = False


class _Remote:
    """A process as another sees it: what is asked of it becomes a message."""

    def __init__(self, process: Process, name: str):
        self._process, self._name = process, name

    def __getattr__(self, method):
        process, name = self._process, self._name

        def call(*arguments, **named):
            return Call(process, name, method, pickle.dumps((arguments, named), 5))

        self.__dict__[method] = call
        return call


class SimRuntime:
    """The `Runtime` of one incarnation of a process."""

    def __init__(self, process: Process):
        self.process = process
        self.chance = random.Random(f"{process.world.seed} {process.name} {process.incarnation}")
        self._remotes: dict[str, _Remote] = {}

    def now(self):
        return self.process.now()

    async def sleep(self, seconds):
        future, process = Future(), self.process
        process.world.push(seconds / process.rate + process.lag, process, process.incarnation, _wake, future)
        await future

    def peer(self, name):
        remote = self._remotes.get(name)
        if remote is None:
            remote = self._remotes[name] = _Remote(self.process, name)
        return remote

    def coordinator(self):
        return self.peer("coordinator")

    async def together(self, calls):
        futures = [
            call.start() if isinstance(call, Call) else Task(self.process, call, call.__name__, part=True).ended
            for call in calls
        ]
        results = []
        for future in futures:
            try:
                results.append(await future)
            except ANSWERS as error:
                results.append(error)
        return results

    def lock(self, name):
        return SimLock()


def _wake(future):
    future.settle()


def show(value: Any, limit: int = 400) -> str:
    """Return `value` short enough for a line of the trace."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
