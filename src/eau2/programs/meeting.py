"""Where the nodes of a run meet: barriers, what they agree on, who has ended, and the first failure."""

from __future__ import annotations

import time
from collections import Counter
from threading import Condition
from typing import TYPE_CHECKING

from eau2.errors import ProgramFailed, WaitTimeout
from eau2.programs.application import Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Gate = tuple[str, int]  # a barrier's name, and how often it was reached before

_WAIT_SECONDS = 0.5  # of one wait: Ctrl-C may be given to another thread, and then does not wake the main one


class Meeting:
    """For one run. Nodes are numbers, from 0. Thread-safe.

    Invariants: a node is at one gate at most; a gate is known as long as somebody is at it; one failure, the first.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._changed = Condition()  # guards everything below
        self._reached: Counter[tuple[str, int]] = Counter()  # how often each node has reached each name
        self._at: dict[int, Gate] = {}  # the nodes that wait, and where
        self._ended: set[int] = set()
        self._agreed: dict[tuple[str, int], tuple[str, ...]] = {}
        self._failure: tuple[int | None, BaseException] | None = None

    @property
    def failure(self) -> tuple[int | None, BaseException] | None:
        """The first failure and its node (None: of the caller)."""
        return self._failure

    def check(self) -> None:
        """Raise Ended when the run has failed."""
        if self._failure is not None:
            raise Ended

    def fail(self, node: int | None, error: BaseException) -> None:
        """The run has failed on `node`, unless it has before."""
        with self._changed:
            if self._failure is None:
                self._failure = node, error
            self._changed.notify_all()

    def leave(self, node: int) -> None:
        """The node does nothing any more."""
        with self._changed:
            self._ended.add(node)
            self._changed.notify_all()

    def agreed(self, subject: tuple[str, int], proposal: tuple[str, ...]) -> tuple[str, ...]:
        """Return what was first proposed for `subject`."""
        with self._changed:
            return self._agreed.setdefault(subject, proposal)

    def meet(self, node: int, name: str, timeout_seconds: float) -> None:
        """Return when all nodes have called this with `name` as often as `node` has.

        Ended when the run has failed. It fails here, with WaitTimeout when nodes are late, and with ProgramFailed when
        they cannot come any more.
        """
        with self._changed:
            self.check()
            self._reached[name, node] += 1
            gate = name, self._reached[name, node]
            self._at[node] = gate
            if len(self._at) == len(self._names):  # either the gate opens, or all are stuck: nobody else need look
                if not self._missing(gate):
                    self._at.clear()
                self._changed.notify_all()
            self._wait_for(lambda: self._at.get(node) != gate or self._stuck(gate) != "", timeout_seconds)
            self.check()
            if self._at.get(node) != gate:
                return
            error = self._obstacle(gate, timeout_seconds)
            self.fail(node, error)
            raise error

    def wait_for_end(self, timeout_seconds: float | None) -> bool:
        """Return whether all nodes have ended, as soon as they have or the run has failed, or when time is over."""
        with self._changed:
            self._wait_for(self._all_ended, timeout_seconds)
            return self._all_ended()

    def _all_ended(self) -> bool:
        return len(self._ended) == len(self._names)

    def _wait_for(self, there: Callable[[], bool], timeout_seconds: float | None) -> None:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while self._failure is None and not there():
            left = _WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(min(left, _WAIT_SECONDS))

    def _missing(self, gate: Gate) -> list[int]:
        return [node for node in range(len(self._names)) if self._at.get(node) != gate]

    def _stuck(self, gate: Gate) -> str:
        """Return why `gate` can never open, or "" when it can."""
        if ended := [self._names[node] for node in self._missing(gate) if node in self._ended]:
            return f"{_listed(ended)} ended without reaching it"
        if len(self._at) == len(self._names):
            others = [f"{self._names[node]} at {self._at[node][0]!r}" for node in self._missing(gate)]
            return f"every node waits at a barrier, {_listed(others)}"
        return ""

    def _obstacle(self, gate: Gate, timeout_seconds: float) -> Exception:
        if reason := self._stuck(gate):
            return ProgramFailed(f"barrier {gate[0]!r} cannot open: {reason}")
        late = _listed([self._names[node] for node in self._missing(gate)])
        return WaitTimeout(
            f"barrier {gate[0]!r}: {late} did not come within {timeout_seconds:g} seconds",
            hint="wait longer with timeout_seconds=, or see what they do instead",
        )


def _listed(names: Sequence[str]) -> str:
    """
    >>> _listed(["node-1"]), _listed(["node-0", "node-1", "node-2"])
    ('node-1', 'node-0, node-1 and node-2')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
