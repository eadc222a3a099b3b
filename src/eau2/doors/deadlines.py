"""Which keys end, and when: what a server knows of it, to delete them soon. The values themselves say it."""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error, StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.doors.work import Outcome, View

NOTED_MAX = 1_000_000  # keys, 200 MB; of more the values say it when they are read, and a later look finds them
SWEPT_MAX = 256  # keys that one sweep looks at
LOOK_SWEEPS = 60  # sweeps between two looks at all that ends, for there may be other servers, and some have died


class Deadlines:
    """Thread-safe. Times are milliseconds since 1970. `clock`: what `time.time` returns, unless a test hands it in."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._until: dict[str, int] = {}
        self._taken: dict[str, int] = {}  # keys that were, with the end they had, and are not forgotten
        self._queue: list[tuple[int, str]] = []  # a heap; what is not as in `_until` is of before

    def now(self) -> int:
        return int(self._clock() * 1000)

    def note(self, key: str, until: int) -> None:
        """What is under `key` ends at `until`. Nothing but a hint: it may have been replaced since."""
        if self._until.get(key) == until:
            return
        with self._lock:
            if len(self._queue) < NOTED_MAX:
                self._until[key] = until
                heapq.heappush(self._queue, (until, key))

    def is_due(self, key: str) -> bool:
        """Whether the end of `key` may have come."""
        until = self._until.get(key)
        return until is not None and until <= self.now()

    def any_due(self) -> bool:
        """Whether `is_due` may be true of any key."""
        now = self.now()
        with self._lock:
            return bool(self._taken) or bool(self._queue and self._queue[0][0] <= now)

    def due(self, most: int = SWEPT_MAX) -> list[str]:
        """Take some keys whose end may have come, at most so many. They stay due until they are forgotten."""
        now = self.now()
        found: list[str] = []
        with self._lock:
            while self._queue and self._queue[0][0] <= now and len(found) < most:
                until, key = heapq.heappop(self._queue)
                if self._until.get(key) == until:
                    found.append(key)
                    self._taken[key] = until
        return found

    def forget(self, keys: Sequence[str], *, swept: bool) -> None:
        """Let go of `keys`, which were taken, unless one has another end by now; not `swept`: they are to be again."""
        with self._lock:
            for key in keys:
                taken = self._taken.pop(key, None)
                if taken is None or self._until.get(key) != taken:
                    continue
                if swept:
                    del self._until[key]
                else:
                    heapq.heappush(self._queue, (taken, key))


class Sweep:
    """Delete those of `reads` whose end has come. A Command."""

    alone = True
    counts = False

    def __init__(self, keys: Sequence[str], *, looks: bool) -> None:
        self.reads = keys
        self._looks = looks  # for keys that end and were put by others

    def run(self, view: View) -> Outcome:
        for key in self.reads:
            view.expire(key)
        if self._looks:
            view.note_ends()
        return True


class Sweeping:
    """Has what ended deleted for all, also for those who do not look at ends. For the event loop."""

    def __init__(
        self, deadlines: Deadlines, submit: Callable[[Sequence[Sweep], Callable[[list[Outcome]], None]], None]
    ) -> None:
        self._deadlines, self._submit = deadlines, submit
        self._count = 0
        self._most = SWEPT_MAX  # fewer after a sweep that failed: values may be too large to be read together
        self._busy = False

    def sweep(self) -> None:
        """Called every second: delete some keys whose end has come, and the next when those are gone."""
        if self._busy:
            return
        looks = self._count % LOOK_SWEEPS == 0
        self._count += 1
        keys = self._deadlines.due(most := self._most)
        if not keys and not looks:
            return

        def done(outcomes: list[Outcome]) -> None:
            self._busy = False
            swept = not isinstance(outcomes[0], Eau2Error)
            self._deadlines.forget(keys, swept=swept)
            self._most = min(SWEPT_MAX, 2 * most) if swept else max(1, most // 16)
            if swept and (looks or len(keys) == most):
                self.sweep()

        with contextlib.suppress(StoreClosed):  # the server ends
            self._submit([Sweep(keys, looks=looks)], done)
            self._busy = True
