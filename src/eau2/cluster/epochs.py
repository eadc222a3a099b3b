"""Why each epoch came, and since when each member is what it is. Kept by whoever makes the views, beside the view.

Nothing is decided by it: who is a member says the view alone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from eau2.cluster.view import State
from eau2.store.membership import EpochChange, Member

if TYPE_CHECKING:
    from eau2.cluster.view import View

EPOCHS_MAX = 300
NAMES_MAX = 20_000  # in all epochs together: it is written whole with each, and there may be a thousand members
FOUNDED = "the store was made"
WHOLE = "everything has all its copies"

_WORDS = {
    State.LIVE: "live",
    State.JOINING: "joining",
    State.DEAD: "dead",
    State.LEAVING: "leaving",
    State.IDLE: "leaving",
    State.LEFT: "left",
}
_HAS_BEEN_LIVE = ("live", "dead", "leaving", "returning")


class Epochs:
    """The latest EPOCHS_MAX epochs, and what each member is. Not thread-safe."""

    def __init__(self) -> None:
        self._changes: deque[EpochChange] = deque()
        self._members: dict[str, Member] = {}

    def note(self, view: View, now: float, why: str, *, by: str) -> None:
        """The epoch of `view` has come, at `now` (seconds since 1970). `by`: who says so."""
        self._changes.append(EpochChange(view.epoch, now, view.live, why))
        while len(self._changes) > EPOCHS_MAX or self._names() > NAMES_MAX:
            self._changes.popleft()
        found = {}
        for name, state in view.members:
            before, word = self._members.get(name), self._word(view, name, state)
            found[name] = before if before and before.state == word else Member(name, word, now, f"{by}: {why}")
        self._members = found

    def _names(self) -> int:
        return sum(len(change.members) for change in self._changes) if len(self._changes) > 1 else 0

    def _word(self, view: View, name: str, state: State) -> str:
        if state != State.JOINING:
            return _WORDS[state]
        before = self._members.get(name)
        known = before.state in _HAS_BEEN_LIVE if before else name in view.base
        return "returning" if known else "joining"

    @property
    def changes(self) -> tuple[EpochChange, ...]:
        """The oldest first."""
        return tuple(self._changes)

    @property
    def members(self) -> tuple[Member, ...]:
        """In the order of names."""
        return tuple(self._members.values())

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "epochs": [[one.epoch, one.time, one.members, one.why] for one in self._changes],
            "members": [[one.name, one.state, one.since, one.source] for one in self._members.values()],
        }

    @classmethod
    def of(cls, document: Any) -> Epochs:
        """Return what `document` says. ValueError, KeyError or TypeError when it says nothing of the kind."""
        found = cls()
        for epoch, time, members, why in document["epochs"]:
            found._changes.append(EpochChange(int(epoch), float(time), tuple(members), str(why)))
        for name, state, since, source in document["members"]:
            found._members[name] = Member(str(name), str(state), float(since), str(source))
        return found


def what_changed(before: View | None, after: View, seen: str = "") -> str:
    """Return in words how `after` differs from `before` (None: there was none), and what was `seen` that made it.

    >>> from eau2.cluster.view import first_view
    >>> view = first_view(["a", "b"], 2)
    >>> what_changed(view, view.having("b", State.DEAD), "no lease renewed for 2.1 s")
    'b died: no lease renewed for 2.1 s'
    """
    if before is None:
        said = [f"{FOUNDED} with {len(after.live)} node{'' if len(after.live) == 1 else 's'}"]
        said += [_change(name, None, state) for name, state in after.members if state == State.JOINING]
    else:
        was = dict(before.members)
        said = [_change(name, was.get(name), state) for name, state in after.members if was.get(name) != state]
        if after.base != before.base or (before.fell and not after.fell):
            said.append(WHOLE)
    if not said:
        return seen or "the members are the same"
    return ", ".join(said) + (f": {seen}" if seen else "")


def _change(name: str, was: State | None, state: State) -> str:
    if state == State.JOINING:
        if was in (None, State.LEFT):
            return f"{name} was added"
        return f"{name} came back" if was == State.DEAD else f"{name} is to be brought up to date"
    if state == State.LEFT and was == State.DEAD:
        return f"{name} was given up"
    return {
        State.LIVE: f"{name} is up to date, and live",
        State.DEAD: f"{name} died",
        State.LEAVING: f"{name} is to leave",
        State.IDLE: f"the others have all that {name} has",
        State.LEFT: f"{name} has left",
    }[state]
