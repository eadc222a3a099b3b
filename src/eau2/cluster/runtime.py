"""What the cluster's code runs on: clock, chance, waiting, and the delivery of requests, all handed in.

The code of a member is written once, as coroutines that await nothing but what is below. In one process nothing ever
waits on an event loop: `finish` runs a coroutine to its end in the calling thread. In the tests' simulation the same
coroutines take turns in virtual time. On a real cluster they run in asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Coroutine, Sequence

    from eau2.cluster.peer import Coordination, Peer

Answer = TypeVar("Answer")


class Lock(Protocol):
    """Held by one coroutine at a time, given in the order they came. May be released by another than took it.

    Where several processes have the same node, it is held by one of them; what a process that was killed had noted,
    the next to get it is told.
    """

    async def acquire(self) -> Sequence[str]:
        """Wait for the lock; return the keys that a process noted which did not live to release it."""

    def note(self, keys: Sequence[str]) -> None:
        """Write down, for other processes, that `keys` are in flight (none: not any more). Only while it is held."""

    def release(self) -> None: ...


class Runtime(Protocol):
    """Everything that is not the cluster's own logic."""

    chance: random.Random

    def now(self) -> float:
        """Return seconds of a clock that never goes back. Different machines may be any time apart."""

    async def sleep(self, seconds: float) -> None: ...

    def peer(self, name: str) -> Peer:
        """Return the member `name`: calls raise Unreachable when no answer came in time."""

    def coordinator(self) -> Coordination:
        """Return the coordinator: calls raise Unreachable when no answer came in time."""

    async def together(self, calls: Sequence[Awaitable[Answer]]) -> list[Answer | BaseException]:
        """Await all of `calls`, at once if that is of use; return what each returned or raised, in order."""

    def lock(self, name: str) -> Lock:
        """Return the lock `name` of this process's member; call once for each name."""


def finish(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run `coroutine` to its end in this thread. It must await only what is ready at once."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answer: Answer = stop.value
        return answer
    coroutine.close()
    raise RuntimeError("a coroutine waited where nothing waits")
