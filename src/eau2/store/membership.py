"""What a store says of its nodes, `Store.members`, `Store.epochs` and `Store.way_in`: what each is now, why that has
changed, and how another one comes to them."""

from __future__ import annotations

from dataclasses import dataclass

from eau2.errors import InvalidOption


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


@dataclass(frozen=True, slots=True)
class WayIn:
    """What a machine has to know that is to join a cluster. Nothing in it is secret: it takes Ray's token besides."""

    head: str  # HOST:PORT, where Ray is joined
    cluster: str  # its name there
    through: str  # the machine that says so; "" where the head was asked itself
    python: str  # the versions that it has
    ray: str
    eau2: str


def no_way_in(what: str) -> InvalidOption:
    """Return the error for `what`, which no other machine can join."""
    return InvalidOption(f"no other machine can join {what}", hint="a cluster of machines is made by `eau2 deploy`")
