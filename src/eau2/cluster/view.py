"""Who is a member, and so who is a home of what: the same answer on every node that has the same view."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

from eau2.values.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence


class State(IntEnum):
    """What a member may do."""

    LIVE = 0  # holds all that it is a home of, and serves it
    JOINING = 1  # new or returned: gets every write, is being brought up to date, serves nothing
    DEAD = 2  # is waited for by nobody
    LEAVING = 3  # does what a live one does; what it is a home of is copied to who will be when it has left
    IDLE = 4  # serves nothing any more, and is to know it before it has left
    LEFT = 5  # never comes back: the others have all that it had, or somebody has said that they do without


@dataclass(frozen=True)
class View:
    """The members as of one epoch. Every change makes a new one, with a higher epoch; views are compared by it alone.

    `base` are the members that were live when all keys and chunks last had all their copies; `fell` those of them that
    have not been live at some moment since, also when they have come back. As long as one base home of a key has not
    fallen, it has all that was acknowledged (it gets writes even when others that joined are homes in its place), and
    the others are brought up to it. When all of them have fallen, nobody knows which was written last: the key is lost
    to reads and writes until all are back, and the highest rank wins.
    """

    epoch: int  # from 1
    replicas: int
    members: tuple[tuple[str, State], ...]  # in the order of names, those that are dead too
    base: tuple[str, ...]
    fell: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:  # without the tables that are made of them
        return View, (self.epoch, self.replicas, self.members, self.base, self.fell)

    @cached_property
    def live(self) -> tuple[str, ...]:
        """Those that hold and serve what they are homes of."""
        return tuple(name for name, state in self.members if state in (State.LIVE, State.LEAVING))

    @cached_property
    def staying(self) -> tuple[str, ...]:
        """The live ones but those that leave."""
        return tuple(name for name, state in self.members if state == State.LIVE)

    @cached_property
    def present(self) -> tuple[str, ...]:
        """Those that take part: all but the dead, and those that have left."""
        return tuple(name for name, state in self.members if state not in (State.DEAD, State.LEFT))

    @cached_property
    def dead(self) -> tuple[str, ...]:
        return tuple(name for name, state in self.members if state == State.DEAD)

    def state(self, name: str) -> State:
        return self._states.get(name, State.DEAD)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def homes(self, key: str) -> tuple[str, ...]:
        """Return the live homes of `key`, at most `replicas` of them. The first orders its writes and serves it."""
        return self._serving.homes_of_key(key, self.replicas)

    def keepers(self, key: str) -> tuple[str, ...]:
        """Return who is to have a copy of `key`: its homes, and those that will be when who leaves has left."""
        homes = self._serving.homes_of_key(key, self.replicas)
        if self.staying == self.live:
            return homes
        return tuple(dict.fromkeys((*homes, *self._remaining.homes_of_key(key, self.replicas))))

    def writers(self, key: str) -> tuple[str, ...]:
        """Return who must have a write of `key` before it is acknowledged: its keepers, then those of its base homes
        that have not fallen and are none any more, then members that join and will be homes if they are the first to
        be live."""
        homes = self.keepers(key)
        if self.base != self.live:
            base = self.base_homes(key)
            homes += tuple(name for name in base if name not in homes and name not in self.fell)
        if self._writing is self._serving:
            return homes
        joining: list[str] = []
        live_left = self.replicas
        for name in self._writing.homes_of_key(key, self.replicas + len(self.present) - len(self.live)):
            if live_left == 0:
                break
            if self._states[name] == State.JOINING:
                joining.append(name)
            else:
                live_left -= 1
        return homes + tuple(joining)

    def base_homes(self, key: str) -> tuple[str, ...]:
        """Return the homes that `key` had when it last had all its copies."""
        return self._based.homes_of_key(key, self.replicas)

    def relies_on(self, name: str, key: str) -> bool:
        """Whether `name` is taken to have all that was acknowledged of `key`, as long as it does not fall."""
        return name in self.base_homes(key) and name not in self.fell

    def is_lost(self, key: str) -> bool:
        """Whether all that could know the last write of `key` fell, and some are not back."""
        if not self.may_lose:
            return False
        homes = self.base_homes(key)
        return set(homes) <= set(self.fell) and not self._are_back(homes)

    def is_contested(self, key: str) -> bool:
        """Whether all that could know the last write of `key` fell, and all are back: the highest rank is the last."""
        if not self.may_lose:
            return False
        homes = self.base_homes(key)
        return set(homes) <= set(self.fell) and self._are_back(homes)

    def _are_back(self, homes: Sequence[str]) -> bool:
        """Whether all of `homes` are live, but for those that never come back."""
        return all(name in self.live or self.state(name) == State.LEFT for name in homes)

    @cached_property
    def may_lose(self) -> bool:
        """Whether there may be keys that are lost or contested."""
        return len(self.fell) >= min(self.replicas, len(self.base))

    @cached_property
    def awaits(self) -> tuple[str, ...]:
        """Those who must come back before all can be said to have its copies: only they may know some keys."""
        return tuple(name for name in self.fell if not self._are_back([name])) if self.may_lose else ()

    # -- chunks -------------------------------------------------------------------------------------------------------

    def chunk_homes(self, chunk_id: str, assigned: Sequence[str]) -> tuple[str, ...]:
        """Return the live homes of a chunk that its manifest assigns to `assigned`: those of them that live, then
        others, `replicas` in all."""
        return self._serving.homes_of_chunk(chunk_id, assigned, self.replicas)

    def chunk_keepers(self, chunk_id: str, assigned: Sequence[str]) -> tuple[str, ...]:
        """As `keepers`, for a chunk."""
        homes = self.chunk_homes(chunk_id, assigned)
        if self.staying == self.live:
            return homes
        later = self._remaining.homes_of_chunk(chunk_id, assigned, self.replicas)
        return tuple(dict.fromkeys((*homes, *later)))

    def assigned(self, key: str, index: int, first: str = "") -> tuple[str, ...]:
        """Return the homes that chunk `index` of a frame under `key` is given: round the ring from the key's home, or
        from `first`."""
        homes = self._remaining.homes_of_key(key, self.replicas)
        if first:
            homes = (first, *(name for name in homes if name != first))[: len(homes)]
        return self._remaining.round_the_ring(homes, index) if homes else ()

    # -- the next view ------------------------------------------------------------------------------------------------

    def having(self, name: str, state: State) -> View:
        """Return the view that follows when `name` is in `state`."""
        states = dict(self.members) | {name: state}
        fell = set(self.fell)
        if state not in (State.LIVE, State.LEAVING) and name in self.base:
            fell.add(name)
        members = tuple(sorted(states.items()))
        return View(self.epoch + 1, self.replicas, members, self.base, tuple(sorted(fell)))

    def repaired(self) -> View:
        """Return the view that follows when everything has all its copies: those that leave serve no more."""
        members = tuple((name, State.IDLE if state == State.LEAVING else state) for name, state in self.members)
        return View(self.epoch + 1, self.replicas, members, self.staying, ())

    def later(self, epochs: int) -> View:
        return View(self.epoch + epochs, self.replicas, self.members, self.base, self.fell)

    # -- as bytes -----------------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        return json.dumps(
            {
                "epoch": self.epoch,
                "replicas": self.replicas,
                "members": {name: state.name.lower() for name, state in self.members},
                "base": self.base,
                "fell": self.fell,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> View:
        """Return the view encoded in `data`. ValueError, KeyError or TypeError when it is none."""
        found = json.loads(data)
        members = tuple(sorted((name, State[state.upper()]) for name, state in found["members"].items()))
        return cls(
            int(found["epoch"]), int(found["replicas"]), members, tuple(found["base"]), tuple(sorted(found["fell"]))
        )

    @cached_property
    def _states(self) -> dict[str, State]:
        return dict(self.members)

    @cached_property
    def _serving(self) -> Placement:
        return Placement(self.live)

    @cached_property
    def _remaining(self) -> Placement:
        return self._serving if self.staying == self.live else Placement(self.staying)

    @cached_property
    def _writing(self) -> Placement:
        joining = tuple(name for name, state in self.members if state == State.JOINING)
        return Placement(tuple(sorted(self.live + joining))) if joining else self._serving

    @cached_property
    def _based(self) -> Placement:
        return Placement(self.base)


def first_view(names: Sequence[str], replicas: int) -> View:
    """Return the view of a new cluster, in which all are live and nothing is stored."""
    return View(1, replicas, tuple((name, State.LIVE) for name in sorted(names)), tuple(sorted(names)))
