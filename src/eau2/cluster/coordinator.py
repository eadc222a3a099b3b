"""Makes the views: who is live, who joins, who is dead. Holds nothing that the members could not tell it again.

A member is heard of when it renews its lease, four times in each. One of which two renewals are missing is suspected:
`members` says so, and nothing is done about it. It is dead once its lease must be over, however its clock runs: nobody
else serves what it may still be serving. One that comes back, or was started anew, joins: it is brought up to date
before it is live.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.cluster.epochs import FOUNDED, Epochs, what_changed
from eau2.cluster.view import State
from eau2.errors import InvalidOption
from eau2.store.membership import Member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eau2.cluster.runtime import Runtime
    from eau2.cluster.view import View

LEASE_SECONDS = 2.0
DRIFT = 0.05  # clocks of members may run that much slower than ours
SUSPECTED_SHARE = 5 / 8  # of a lease: who is not heard of for so long: two renewals are missing
_STALL_SHARE = 1 / 4  # of a lease: after so long without a tick, what was sent to us meanwhile is heard first,
_QUIET_SHARE = 1 / 2  # for so long: two renewals of each, so that one which is lost is nobody's death then either
_NAME = "coordinator"
EPOCHS_AHEAD = 1024  # a coordinator that was started anew leaves out those that the one before may have made


@dataclass(slots=True)
class _Heard:
    incarnation: str
    at: float
    whole: int = 0  # the epoch as of which it has, and has seen, everything


class Coordinator:
    """A `Coordination`. `tick` is to be called several times a lease; `recovered` says that it was started anew.

    epochs: what is known of those before. clock: as `time.time`; it only says when things were seen.
    """

    def __init__(
        self,
        runtime: Runtime,
        view: View,
        *,
        lease_seconds: float = LEASE_SECONDS,
        epochs: Epochs | None = None,
        clock: Callable[[], float] = time.time,
        why: str = FOUNDED,
    ) -> None:
        self._runtime = runtime
        self._view = view
        self._lease_seconds = lease_seconds
        self._clock = clock
        self.epochs = Epochs() if epochs is None else epochs
        self.epochs.note(view, clock(), why, by=_NAME)
        now = runtime.now()
        self._quiet_until = now  # before this, members of before may have leases that we do not know of
        self._ticked = now
        self._heard = {name: _Heard("", now) for name in view.present}
        self._brought: dict[str, str] = {}  # who brought a member in that has not joined since

    @classmethod
    def recovered(
        cls,
        runtime: Runtime,
        views: Iterable[View],
        *,
        lease_seconds: float = LEASE_SECONDS,
        epochs: Epochs | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Coordinator:
        """Return the coordinator that goes on from the `views` that the members know."""
        latest = max(views, key=lambda view: view.epoch)
        why = FOUNDED if latest.epoch == 1 else f"a coordinator was started anew, and goes on from epoch {latest.epoch}"
        first = latest.later(EPOCHS_AHEAD)
        found = cls(runtime, first, lease_seconds=lease_seconds, epochs=epochs, clock=clock, why=why)
        found._quiet_until = runtime.now() + found._patience
        return found

    @property
    def _patience(self) -> float:
        return self._lease_seconds * (1 + DRIFT)

    @property
    def current(self) -> View:
        """The view there is now."""
        return self._view

    async def view(self) -> View:
        return self._view

    def members(self) -> tuple[Member, ...]:
        """Return what each member is, in the order of names."""
        now = self._runtime.now()
        return tuple(self._as_heard(member, now) for member in self.epochs.members)

    def _as_heard(self, member: Member, now: float) -> Member:
        heard = self._heard.get(member.name)
        silent = 0.0 if heard is None else now - heard.at
        if member.name not in self._view.present or silent <= self._lease_seconds * SUSPECTED_SHARE:
            return member
        if now < self._quiet_until or now - self._ticked > self._lease_seconds * _STALL_SHARE:
            return member  # it is we who were away
        seen = f"{_NAME}: not responding, no lease renewed for {silent:.1f} s"
        return Member(member.name, "suspected", self._clock() - silent, seen)

    def brought(self, name: str, by: str) -> None:
        """Have it said when `name` joins next that it was brought in `by` somebody; each word of that kind once."""
        if by and not any(by in change.why for change in self.epochs.changes):
            self._brought[name] = by

    def readmit(self, name: str, incarnation: str) -> View:
        """Have `name`, which has left, join with nothing, as a new member would; return the view."""
        self._heard[name] = _Heard(incarnation, self._runtime.now())
        self._change(name, State.JOINING, self._joining(name))
        return self._view

    async def renew(self, name: str, incarnation: str, epoch: int, *, whole: bool) -> View:
        """As `Coordination.renew`."""
        now = self._runtime.now()
        heard = self._heard.get(name)
        state = self._view.state(name)
        if state == State.LEFT:
            return self._view
        if heard is None or state == State.DEAD:
            self._heard[name] = _Heard(incarnation, now)
            self._change(name, State.JOINING, self._joining(name, "" if heard is None else "it renews its lease again"))
            return self._view
        anew = epoch == 0 if heard.incarnation == "" else heard.incarnation != incarnation
        if anew and state != State.IDLE:  # what it knew and did not write down is gone
            self._heard[name] = _Heard(incarnation, now)
            # A later epoch, also when it was joining.
            seen = self._joining(name, f"the process of {name} ended and was started anew")
            self._enter(self._view.having(name, State.JOINING), seen)
            return self._view
        heard.incarnation = incarnation
        heard.at = now
        if state == State.IDLE and (anew or epoch == self._view.epoch):  # started anew it serves nothing either
            self._change(name, State.LEFT)
        elif epoch == self._view.epoch:
            heard.whole = epoch if whole else 0  # a put may have been left short of copies since it was
            if whole and state == State.JOINING:
                self._change(name, State.LIVE)
        return self._view

    async def suspect(self, name: str) -> View:
        """As `Coordination.suspect`."""
        self.tick()
        return self._view

    def drain(self, name: str) -> View:
        """Have `name` leave for good: once the others have copies of all that it has, it has left. A dead one is not
        waited for any more, and nothing is that only it knows. Return the view. InvalidOption."""
        state = self._view.state(name)
        if name not in dict(self._view.members):
            raise InvalidOption(f"there is no node {name!r}", hint=f"there are {', '.join(self._view.present)}")
        if state == State.DEAD:
            self._change(name, State.LEFT)
        elif state in (State.LIVE, State.JOINING):
            left = len(self._view.staying) - (state == State.LIVE)
            if left < self._view.replicas:
                raise InvalidOption(
                    f"{left} nodes would be left, for {self._view.replicas} copies", hint="start another one first"
                )
            self._change(name, State.LEAVING if state == State.LIVE else State.LEFT)
        return self._view

    def advance(self) -> View:
        """Make a view that is like the one there is, and later: what is in flight in that one is settled first."""
        self._enter(self._view.later(1), "chunks are moved to where they belong now")
        return self._view

    def tick(self) -> None:
        """Declare dead whoever's lease is over, and take note when everything has all its copies."""
        now, stall = self._runtime.now(), self._lease_seconds * _STALL_SHARE
        if now - self._ticked > stall:  # it is we who were frozen, or short of time: the members may have renewed
            self._quiet_until = max(self._quiet_until, now + self._lease_seconds * _QUIET_SHARE)
        self._ticked = now
        for name in self._view.present:
            heard = self._heard.setdefault(name, _Heard("", now))
            silent = now - heard.at
            if silent > self._patience and now >= self._quiet_until:
                state = State.LEFT if self._view.state(name) == State.IDLE else State.DEAD
                self._change(name, state, f"no lease renewed for {silent:.1f} s")
        view = self._view
        if view.fell or view.base != view.staying or view.live != view.staying:  # who leaves may not be in the base yet
            settled = all(self._heard[name].whole == view.epoch for name in view.live)
            if view.live and view.present == view.live and not view.awaits and settled:
                self._enter(view.repaired())

    def _joining(self, name: str, seen: str = "") -> str:
        return ", ".join(filter(None, [seen, self._brought.pop(name, "")]))

    def _change(self, name: str, state: State, seen: str = "") -> None:
        if self._view.state(name) != state or name not in dict(self._view.members):
            self._enter(self._view.having(name, state), seen)

    def _enter(self, view: View, seen: str = "") -> None:
        """Make `view` the one there is. `seen`: what made it."""
        before, self._view = self._view, view
        self.epochs.note(view, self._clock(), what_changed(before, view, seen), by=_NAME)
