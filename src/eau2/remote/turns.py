"""Threads that work for several who take turns, one piece of work after the other, so that each gets its share."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

from eau2.errors import StoreBusy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WAITING_MAX = 100_000
_LOOK_SECONDS = 60.0  # a bound on one wait; the loop around it waits on


class Turns:
    """Up to `count` threads, of which at most `share` work for one. Made when first needed, ended by `close`.
    Thread-safe."""

    def __init__(self, name: str, count: int, *, share: int) -> None:
        self._name, self._count, self._share = name, count, share
        self._changed = threading.Condition()  # guards everything below
        self._waiting: dict[object, deque[Callable[[], None]]] = {}  # by whose it is; the next in turn first
        self._running: Counter[object] = Counter()
        self._threads = self._idle = 0
        self._closed = False

    def add(self, whose: object, work: Sequence[Callable[[], None]]) -> None:
        """Have `work` done, in order; it does not raise. StoreBusy when too much waits."""
        with self._changed:
            if sum(map(len, self._waiting.values())) + len(work) > WAITING_MAX:
                raise StoreBusy(f"over {WAITING_MAX:,} parts of queries wait already", hint="try again later")
            if not work or self._closed:
                return
            self._waiting.setdefault(whose, deque()).extend(work)
            # Of all that waits: threads that are idle may not have seen yet what was added before.
            begins = sum(min(len(each), self._share - self._running[of]) for of, each in self._waiting.items())
            for _ in range(min(self._count - self._threads, begins - self._idle)):
                threading.Thread(target=self._run, name=f"{self._name}_{self._threads}", daemon=True).start()
                self._threads += 1
            self._changed.notify_all()

    def drop(self, whose: object) -> None:
        """Begin nothing more of theirs."""
        with self._changed:
            self._waiting.pop(whose, None)

    def close(self) -> None:
        """Begin nothing more; threads end with what they are at. Idempotent."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            whose, work = found
            try:
                work()
            except Exception:  # a fault of ours: the thread goes on for the others
                logging.getLogger(__name__).exception("%s failed", self._name)
            with self._changed:
                self._running[whose] -= 1
                if not self._running[whose]:
                    del self._running[whose]
            del found, whose, work

    def _next(self) -> tuple[object, Callable[[], None]] | None:
        with self._changed:
            self._idle += 1
            while not self._closed:
                whose = next((each for each in self._waiting if self._running[each] < self._share), None)
                if whose is not None:
                    theirs = self._waiting.pop(whose)
                    work = theirs.popleft()
                    if theirs:
                        self._waiting[whose] = theirs  # behind the others
                    self._running[whose] += 1
                    self._idle -= 1
                    return whose, work
                self._changed.wait(_LOOK_SECONDS)
            return None
