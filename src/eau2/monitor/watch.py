"""The watch over one store: a thread that looks every few seconds, as long as somebody has asked for it lately."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error
from eau2.monitor.documents import encoded, overview
from eau2.monitor.history import History
from eau2.monitor.runs import Begun
from eau2.monitor.sight import Sight

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.monitor.source import Observation
    from eau2.query.queries import Queries
    from eau2.store.store import Store

LOOK_SECONDS = 2.0  # between two looks
GLANCE_SECONDS = 0.5  # between two at the states of members: one does not respond for a second, and is dead
SHARE = 0.01  # of a processor is spent on looking, at most: looks that cost much are fewer
LOOK_SECONDS_MAX = 60.0
IDLE_SECONDS = 900.0  # nobody has asked for so long: nobody watches
FIRST_SECONDS = 10.0  # for which the first look is waited for
LISTENERS_MAX = 100
_JOIN_SECONDS = 0.4


class Watch:
    """Looks at `store`, and keeps an hour of what it saw. Thread-safe.

    The thread begins when somebody asks, and ends IDLE_SECONDS after the last has; what was seen stays. clock: as
    `time.monotonic`.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self._sight = Sight(store)  # of the thread
        self.begun = Begun()
        self._clock = clock
        self._changed = threading.Condition()  # guards everything below
        self._history = History()
        self._thread: threading.Thread | None = None
        self._asked = 0.0
        self._closed = False
        self._seen: Observation | None = None
        self._error: Eau2Error | None = None
        self._document = b"{}"
        self._number = 0  # of looks
        self._listeners: set[Callable[[], None]] = set()

    @property
    def queries(self) -> Queries:
        return self.store.tables.queries

    def close(self) -> None:
        """End the thread, and the runs that pages have begun. May be called again."""
        self.begun.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(_JOIN_SECONDS)

    def listen(self, tell: Callable[[], None]) -> bool:
        """Have `tell` called after each look, in the thread of the watch, until `unlisten`. False when too many do."""
        with self._changed:
            if len(self._listeners) >= LISTENERS_MAX:
                return False
            self._listeners.add(tell)
        self._ask()
        return True

    def unlisten(self, tell: Callable[[], None]) -> None:
        with self._changed:
            self._listeners.discard(tell)

    def document(self) -> bytes:
        """Return what was seen last, as JSON. Waits for the first look; raises what the last one has raised."""
        self._ask()
        with self._changed:
            self._changed.wait_for(lambda: self._number > 0 or self._closed, FIRST_SECONDS)
            if self._error is not None:
                raise self._error
            return self._document

    def seen(self) -> tuple[Observation | None, History, threading.Condition]:
        """Return what was seen last, and the history, which is to be read with the condition held."""
        self._ask()
        return self._seen, self._history, self._changed

    # -- private ------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        with self._changed:
            self._asked = self._clock()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="eau2-monitor", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            self._look_for_ever()
        except BaseException:  # a fault of ours: who asks next begins anew, and does not see for ever what was
            with self._changed:
                self._closed_or_idle()
            raise

    def _look_for_ever(self) -> None:
        while True:
            began = time.thread_time()
            self._look()
            pause = max(LOOK_SECONDS, (time.thread_time() - began + self._sight.cost_seconds) / SHARE)
            if self._number == 1:
                pause = LOOK_SECONDS  # how fast counters grow is known from the second look on
            listeners = self._tell()
            with self._changed:
                if listeners:
                    self._asked = self._clock()
                if self._clock() - self._asked > IDLE_SECONDS:
                    self._closed_or_idle()
                    return
            if not self._rest(min(LOOK_SECONDS_MAX, pause)):
                return

    def _rest(self, seconds: float) -> bool:
        """Wait for the next look, with an eye on the states of members while somebody listens. False when closed."""
        ends, cost = self._clock() + seconds, 0.0
        while (left := ends - self._clock()) > 0:
            with self._changed:
                listens = bool(self._listeners)
                pause = min(left, max(GLANCE_SECONDS, cost / SHARE)) if listens else left
                if self._changed.wait_for(lambda: self._closed, pause):
                    self._closed_or_idle()
                    return False
            if listens and left > pause:
                if self._sight.changed():
                    self._show(self._sight.now())
                    self._tell()
                cost = self._sight.cost_seconds
        return True

    def _tell(self) -> bool:
        with self._changed:
            listeners = tuple(self._listeners)
        for tell in listeners:
            tell()
        return bool(listeners)

    def _closed_or_idle(self) -> None:
        self._thread = None
        self._changed.notify_all()

    def _look(self) -> None:
        try:
            seen = self._sight.look()
        except Eau2Error as failure:  # it is said on the page, and looked at again
            with self._changed:
                self._error = failure
                self._number += 1
                self._changed.notify_all()
            return
        self._show(seen, is_new=True)

    def _show(self, seen: Observation, *, is_new: bool = False) -> None:
        running = self.queries.totals()
        with self._changed:
            self._seen, self._error = seen, None
            if is_new:  # else its figures are those of before
                self._number += 1
                self._history.note(seen.time, (*seen.reports, seen.server))
            self._document = encoded(overview(seen, self._history, running))
            self._changed.notify_all()
