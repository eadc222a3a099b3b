"""Chunks of stored frames move to where they would be put today: what a node that joined later gets of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.cluster.repair import copy_chunks
from eau2.errors import Eau2Error, NodeUnavailable
from eau2.store.interrupts import heed
from eau2.store.nodes import RANK_BITS, VERSION_MASK, Kind, Record
from eau2.values.key import MARK, hold_key
from eau2.values.manifest import Manifest, homes_of_equal

if TYPE_CHECKING:
    from eau2.cluster.member import Member
    from eau2.cluster.view import View

_PAGE = 1000


@dataclass(slots=True)
class Moved:
    """What `rebalance` did."""

    frames: int = 0  # that have other homes now
    copies: int = 0  # of chunks, made on nodes that had none
    bytes: int = 0  # of them


async def rebalance(member: Member, view: View, moved: Moved) -> None:
    """Give the chunks of all frames that `member` orders the homes that a put in `view` would give them.

    The version of a frame stays; its rank is of this epoch, so what was written in it already is left as it is. First
    the chunks are held where they are to be, then the manifest is replaced on all its homes, then the old holds go: who
    reads meanwhile finds the chunks in the one place or the other.
    """
    after = ""
    while True:
        rows = await member.listing(view.epoch, member.name, after, _PAGE)
        for key, rank, kind in rows:
            heed()
            if kind == Kind.SPREAD and not key.startswith(MARK) and rank >> RANK_BITS < view.epoch:
                await _move(member, view, key, moved)
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]


async def _move(member: Member, view: View, key: str, moved: Moved) -> None:
    (old,) = await member.records(view.epoch, [key]) or (None,)
    if old is None or old.kind != Kind.SPREAD or old.rank >> RANK_BITS >= view.epoch:
        return
    manifest = Manifest.decode(old.payload)
    homes = homes_of_equal((one, view.assigned(key, index)) for index, one in enumerate(manifest.chunk_ids))
    if list(manifest.chunk_homes) == homes:
        return
    rank = view.epoch << RANK_BITS | old.rank & VERSION_MASK
    new = Record(key, rank, Kind.SPREAD, manifest.assigned_to(homes).encode())
    wanted: dict[str, set[str]] = defaultdict(set)
    for chunk_id, names in zip(manifest.chunk_ids, homes, strict=True):
        for name in names:
            wanted[name].add(chunk_id)
    there = await _holders(member, view, old)
    try:
        for name, ids in sorted(wanted.items()):
            sources = {one: tuple(sorted(there.get(one, ()))) for one in sorted(ids)}
            hold = Record(hold_key(key, rank), rank, Kind.HOLD)
            moved.bytes += await copy_chunks(member, view, name, hold, sources)
            moved.copies += sum(name not in there.get(one, ()) for one in ids)
        await member.order.adopt(view, [new])
    except FileNotFoundError as error:
        await member.order.delivery.release(wanted, [(key, rank)])
        (now,) = await member.records(view.epoch, [key]) or (None,)
        if now is None or now.rank != old.rank:  # deleted or replaced meanwhile, and its chunks with it
            return
        what = f"{key!r} was not moved: cannot find {error}"
        raise NodeUnavailable(what, hint="check() says what is lost") from error
    except Eau2Error:
        await member.order.delivery.release(wanted, [(key, rank)])
        raise
    found = member.node.records([key]).get(key)
    if found is not None and found.rank == rank:
        moved.frames += 1
        await member.order.delivery.release(set(view.present), [(key, old.rank)])
    else:  # written meanwhile
        await member.order.delivery.release(wanted, [(key, rank)])


async def _holders(member: Member, view: View, record: Record) -> dict[str, set[str]]:
    """Return for each chunk of a frame the nodes that hold it."""
    name = hold_key(record.key, record.rank)
    holders: dict[str, set[str]] = defaultdict(set)
    for node in view.present:
        for hold in await member.at(node).records(view.epoch, [name]):
            if hold.kind == Kind.HOLD:
                for chunk_id in hold.payload.decode().split("\n"):
                    holders[chunk_id].add(node)
    return holders
