"""How a run gets to every node without one place that serves all: from node to node, as a tree. Pure.

Who asks a node also takes over those below it when the node is lost: so whatever dies on the way, all others are
reached, each by somebody who lives. Nobody can tell a lost node from a slow one, so a node may be asked by two. That is
no harm: it does a run once (`journal.py`), and tells all who asked what came of it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

FAN_OUT = 4  # 1,000 nodes are 5 steps away, and none has more than 4 others to serve


class Branch(NamedTuple):
    """A node to ask, and those that it is to ask."""

    name: str
    below: tuple[str, ...]


def spread(names: Sequence[str], fan_out: int = FAN_OUT) -> list[Branch]:
    """Return `names` as branches, at most `fan_out`, of nearly the same size.

    >>> spread("abcdef", 2)
    [Branch(name='a', below=('b', 'c')), Branch(name='d', below=('e', 'f'))]
    """
    count = min(fan_out, len(names))
    cuts = [len(names) * index // count for index in range(count + 1)] if count else []
    return [Branch(names[start], tuple(names[start + 1 : end])) for start, end in pairwise(cuts)]


class Relay:
    """One place in the tree, the caller's or a node's: whom it has asked, and of whom it knows what came of it.

    Not thread-safe. Invariant: each of `below` that is `awaited` is in one of the branches that are asked.
    """

    def __init__(self, below: Sequence[str], fan_out: int = FAN_OUT) -> None:
        self._fan_out = fan_out
        self._awaited = set(below)
        self._asked: dict[str, Branch] = {}
        self._first = self._ask(tuple(below))

    def begin(self) -> list[Branch]:
        """Return whom to ask first."""
        return self._first

    @property
    def is_done(self) -> bool:
        """Whether it is known of all what came of them."""
        return not self._awaited

    def heard(self, name: str) -> bool:
        """It is known what came of `name`; return whether that is news: it may come from several."""
        if name not in self._awaited:
            return False
        self._awaited.discard(name)
        return True

    def is_asked(self, name: str) -> bool:
        """Whether something is still to come from `name`."""
        return name in self._asked

    def lost(self, name: str) -> list[Branch]:
        """Nothing more comes from `name`, which was asked; return whom to ask in its place. Nobody when it said all
        that there was to say, or is lost already. Of `name` itself nothing is known but what was heard."""
        branch = self._asked.pop(name, None)
        if branch is None:
            return []
        return self._ask(tuple(below for below in branch.below if below in self._awaited))

    def _ask(self, names: tuple[str, ...]) -> list[Branch]:
        found = spread(names, self._fan_out)
        self._asked.update((branch.name, branch) for branch in found)
        return found
