"""A store as it was seen last, part by part: a node that is frozen or gone hides what it alone knows, and nothing else.

A store that counts itself asks all of its nodes, and that fails, or waits, as soon as one does not answer: just when
somebody wants to see which. So each part is asked in a thread of its own, and waited for shortly. What does not come
stays as it was, and `Observation.troubles` says since when.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eau2.errors import Eau2Error, NodeUnavailable
from eau2.metrics.process import process_statistics
from eau2.metrics.report import Report, metrics_of
from eau2.monitor.source import Observation, answered, in_all, is_counted_here, who

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.store.store import Store

Found = TypeVar("Found")

PATIENCE_SECONDS = 0.8  # for one part, of which nothing new is shown then
LATE_SECONDS = 6.0  # what is not older is not late: counting many keys takes its time
FIRST_SECONDS = 8.0  # for what is needed, when there is nothing of before
FIRST_SUMS_SECONDS = 3.0  # for what can be done without
# Of nodes; while none of them changes, sums do not: nodes that rest are not asked to count all they have.
_COUNTED = frozenset({"keys", "frames", "chunks", "chunk_bytes", "value_bytes", "writes", "copies_missing", "copied"})


class _Part(Generic[Found]):
    """What is asked of a store, once at a time, and what came of it last."""

    def __init__(self, title: str, ask: Callable[[], Found]) -> None:
        self.title = title
        self._ask = ask
        self._idle = threading.Event()  # set when nobody is asking
        self._idle.set()
        # What the asking thread leaves, and is read while nobody is asking.
        self._left: Found | None = None
        self._failed: Exception | None = None
        self._left_at = self._left_cost_seconds = 0.0
        self._is_new = False
        # As of the last `take`.
        self.found: Found | None = None
        self.error: Exception | None = None
        self.at = 0.0  # Unix time, of what was found
        self.cost_seconds = 0.0  # of a processor, that nobody has heard of

    def begin(self) -> None:
        if self._idle.is_set():
            if self._is_new:
                self._have()  # what came after the last `take`
            self._idle.clear()
            threading.Thread(target=self._run, name="eau2-look", daemon=True).start()

    def take(self, patience_seconds: float) -> float:
        """Have what was found, once it comes; return the seconds of a processor that it took."""
        if self._idle.wait(max(0.0, patience_seconds)):
            self._have()
        elif self.error is None and time.time() - self.at > LATE_SECONDS:
            self.error = NodeUnavailable("no answer yet")
        cost, self.cost_seconds = self.cost_seconds, 0.0
        return cost

    def trouble(self, now: float) -> str:
        """Return "", or what is not as of now, and why."""
        if self.error is None:
            return ""
        why = self.error.message if isinstance(self.error, Eau2Error) else repr(self.error)
        age = f"as of {now - self.at:.0f} s ago" if self.at else "not known"
        return f"{self.title} {age} ({why})"

    def _have(self) -> None:
        self._is_new = False
        self.error = self._failed
        if self.error is None:
            self.found, self.at = self._left, self._left_at
        self.cost_seconds += self._left_cost_seconds
        self._left_cost_seconds = 0.0

    def _run(self) -> None:
        began = time.thread_time()
        try:
            self._left, self._failed, self._left_at = self._ask(), None, time.time()
        except Exception as error:  # `take` has it; what is no Eau2Error is raised by `Sight.look`
            self._failed = error
        finally:
            self._left_cost_seconds += time.thread_time() - began
            self._is_new = True
            self._idle.set()


class Sight:
    """Looks at `store`. For one thread; the store is asked in others, which end when it answers or is closed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._who = _Part("who is a member", partial(who, store))
        self._reports = _Part("figures of nodes", store.reports)
        self._totals = _Part("sums", partial(in_all, store))
        self._answer = _Part("a look-up", partial(answered, store))
        self._states: object = None
        self._summed: object = None  # what nodes had counted when sums were asked for
        self.cost_seconds = 0.0  # of a processor, of the last look

    def changed(self) -> bool:
        """Whether a member's state is another than was seen last. Asks for nothing else: 1 ms."""
        self._who.begin()
        self.cost_seconds = self._who.take(PATIENCE_SECONDS)
        before = self._states
        self._note()
        return self._states != before

    def now(self) -> Observation:
        """Return what was seen last, with the states that `changed` has just found."""
        return self._seen(time.time(), 0.0)

    def look(self) -> Observation:
        """Return what the store says now, in PATIENCE_SECONDS (FIRST_SECONDS when nothing is known yet). Raises what
        the store does when it says nothing at all."""
        needed: list[_Part[Any]] = [self._who, self._reports]
        parts = [*needed, self._totals, self._answer]
        counted = self._counted()
        changed = counted is None or counted != self._summed or self._totals.error is not None
        self._summed = counted
        began = time.perf_counter()
        for part in parts:
            if changed or part is not self._totals:
                part.begin()
        self.cost_seconds = 0.0
        for part in parts:
            first = FIRST_SECONDS if part in needed else FIRST_SUMS_SECONDS
            patience = PATIENCE_SECONDS if part.at else first
            self.cost_seconds += part.take(began + patience - time.perf_counter())
        for part in parts:
            if part.error is not None and not isinstance(part.error, Eau2Error):
                raise part.error
        troubled = [part for part in (*needed, self._totals) if part.error is not None]
        if len(troubled) == 3 or any(part.found is None for part in needed):
            raise next(
                (part.error for part in troubled if part.error is not None), NodeUnavailable("it does not answer")
            )
        self._note()
        return self._seen(time.time(), time.perf_counter() - began)

    # -- private ------------------------------------------------------------------------------------------------------

    def _counted(self) -> object:
        """Return what nodes count, as they said last; None when nothing is known."""
        if not self._reports.found or not self._totals.at:
            return None
        live = [member.name for member in self._who.found[0] if member.state == "live"] if self._who.found else []
        return live, [
            (report.node, [metric.value for metric in report.metrics if metric.name in _COUNTED])
            for report in self._reports.found
        ]

    def _note(self) -> None:
        members = self._who.found[0] if self._who.found else ()
        self._states = [(member.name, member.state) for member in members]

    def _seen(self, now: float, took_seconds: float) -> Observation:
        members, changes = self._who.found or ((), ())
        age = 0.0 if self._reports.error is None else now - self._reports.at
        reports = tuple(replace(each, age_seconds=each.age_seconds + age) for each in self._reports.found or ())
        answer = () if self._answer.error is not None or self._answer.found is None else (self._answer.found,)
        server = Report("", 0.0, (*metrics_of(process_statistics(self._store.name)), *answer))
        troubles = tuple(filter(None, (part.trouble(now) for part in (self._who, self._reports, self._totals))))
        totals = dict(self._totals.found or {})
        if self._totals.error is not None:
            live = {member.name for member in members if member.state == "live"}
            totals |= copies([report for report in reports if report.node in live])
        here = is_counted_here(self._store)
        return Observation(now, took_seconds, members, changes, reports, totals, server, here, troubles)


def copies(reports: Sequence[Report]) -> dict[str, float]:
    """Return what repair has to do and has done, as each node says: it is wanted just when one does not answer."""
    names = ("copies_missing", "copied", "copied_bytes")
    sums = dict.fromkeys(names, 0.0)
    for report in reports:
        for metric in report.metrics:
            if metric.name in sums:
                sums[metric.name] += metric.value
    return sums
