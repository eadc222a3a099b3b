"""The nodes of a store as `eau2 nodes` lists them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eau2.store.membership import Member
    from eau2.store.nodes import NodeStatistics
    from eau2.store.store import Store

TAKING_PART = ("live", "suspected", "left")  # or not to be missed


@dataclass(frozen=True, slots=True)
class NodeListing:
    """A node of a store. Counts are None where it does not answer, `since` where nobody has said."""

    name: str
    machine: str  # of a cluster; "" where Ray has none
    state: str  # as `Member.state`; absent: no member
    keys: int | None = None
    chunks: int | None = None
    bytes: int | None = None  # of values and chunks
    trouble: str = ""  # why it takes no part
    since: float | None = None  # seconds since 1970
    source: str = ""  # who says so, and what was seen

    def as_member(self, member: Member) -> NodeListing:
        """Return it with what `member` is. Who has left for good is no trouble."""
        trouble = "" if member.state == "left" else self.trouble
        return replace(self, state=member.state, since=member.since, source=member.source, trouble=trouble)

    def having(self, count: NodeStatistics | None) -> NodeListing:
        """Return it with what it has, if that is known."""
        if count is None:
            return self
        size = count.value_bytes + count.chunk_bytes
        return replace(self, keys=count.keys, chunks=count.chunks, bytes=size)


def nodes_of(store: Store) -> list[NodeListing]:
    """Return the nodes of `store`, which is open. Raises as `Store.members` and `Store.statistics`."""
    counts = {count.name: count for count in store.statistics().nodes}
    return [
        NodeListing(member.name, "", "absent").as_member(member).having(counts.get(member.name))
        for member in store.members()
    ]
