"""What a store says of its nodes, `Store.members` and `Store.epochs`: what each is now, and why that has changed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a store, as far as who looks after them all has seen.

    `state`: "live" (holds and serves what it is a home of); "suspected" (so it is, and has not responded since
    `since`: nothing is done about it yet); "dead" (the others go on without it); "joining" (new: it is brought up to
    date) and "returning" (likewise, and has been live before); of a node that is to go for good "leaving", then "left".
    """

    name: str
    state: str
    since: float  # seconds since 1970, by the clock of who says so
    source: str  # who says so, and what was seen: "coordinator: node-2 died: no lease renewed for 2.1 s"


@dataclass(frozen=True, slots=True)
class EpochChange:
    """A change of who is a member, or of what they may rely on: each makes a new epoch."""

    epoch: int  # from 1; some are left out when the coordinator is started anew
    time: float  # seconds since 1970, by the clock of who made it
    members: tuple[str, ...]  # those that are live in it
    why: str  # which node, and what was seen: "node-2 died: no lease renewed for 2.1 s"
