"""Copies where they belong: a member that joins is brought up to date, and what a death has left short is copied again.

Both compare pages of keys and ranks with what the first home of each key has, which is right by definition: it has
settled its epoch before it tells anybody, and everything of this epoch goes through it.

When that is done: at the beginning of each epoch, until nothing is missing; once more when surplus copies may go; from
then on every few minutes. And at once when a put was acknowledged although a home of a chunk had not answered: no epoch
need follow, as that node may only have been slow, and until the copy is there another's death may lose what it had.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eau2.cluster.delivery import chunk_nodes
from eau2.cluster.keys import DECISION, reservations_on
from eau2.cluster.peer import NotServing, Request, Unreachable, WrongEpoch, every_record
from eau2.cluster.view import State
from eau2.errors import DiskFull, Eau2Error
from eau2.store.nodes import RANK_BITS, Kind, Record, Write
from eau2.values.key import held_key, hold_key
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eau2.cluster.member import Member
    from eau2.cluster.view import View

PAGE = 1000
COPIED_AT_ONCE = 4  # chunks in one request
_TEND_SECONDS = 0.5  # between looks while something is missing
_LOOK_SECONDS = 300.0  # between looks when nothing was
_LOOK_SHARE = 20  # a look that took long is not taken again for that many times as long
_FAILURES = (NotServing, Unreachable, WrongEpoch, Eau2Error, FileNotFoundError)

Row = tuple[str, int, int]  # key, rank, kind


@dataclass(slots=True)
class Progress:
    """What repair has to do, and has done since the store was opened."""

    missing: int = 0  # copies of keys and chunks found short at the last look
    keys: int = 0  # copies made
    chunks: int = 0
    bytes: int = 0  # of values and chunks
    dropped: int = 0  # surplus copies


@dataclass(slots=True)
class _Work:
    """What one look found."""

    decisions: list[str] = field(default_factory=list)
    short: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # key -> homes without it
    stale: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # node -> keys it should not have
    holds: list[tuple[str, str]] = field(default_factory=list)  # (node, key of a hold) of the frames it orders


async def copy_chunks(
    member: Member, view: View, node: str, hold: Record, sources: Mapping[str, tuple[str, ...]]
) -> int:
    """Have `node` hold, besides what `hold` names, the chunks of `sources`, which come from the nodes that these say.

    Some at a time, so that each request is answered soon. Return the bytes that were moved.
    """
    moved, held = 0, hold.payload.decode().split("\n") if hold.payload else []
    several = list(sources.items())
    for start in range(0, len(several), COPIED_AT_ONCE):
        some = several[start : start + COPIED_AT_ONCE]
        held = sorted({*held, *(chunk_id for chunk_id, _ in some)})
        moved += await member.at(node).copy(view.epoch, hold._replace(payload="\n".join(held).encode()), some)
    return moved


class Repair:
    """Brings copies to where they belong, for the keys that one member orders. One coroutine runs it.

    bytes_per_second: how fast it copies at most. grace_seconds: how long a surplus copy is kept. look_seconds: between
    looks when nothing is missing.
    """

    def __init__(
        self,
        member: Member,
        *,
        bytes_per_second: float = 100e6,
        grace_seconds: float = 60.0,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._member = member
        self._rate = bytes_per_second
        self._grace_seconds, self._look_seconds = grace_seconds, look_seconds
        self._numbers = itertools.count()  # of requests
        self._whole_since: tuple[int, float] = (0, 0.0)  # the epoch, and when nothing was missing any more
        self._is_full = False  # this disk had no room for something of what is to be here
        self.progress = Progress()

    async def step(self) -> bool:
        """Do one round of what is to do; return whether nothing is missing. What gets in the way ends the round."""
        member = self._member
        view, owed = member.view, member.order.owed
        try:
            if view.state(member.name) == State.JOINING:
                whole = await self._catch_up(view)
            elif member.serves:
                whole = await self._repair(view)
            else:
                return False
        except _FAILURES:
            return False
        if (member.view.epoch, member.order.owed) != (view.epoch, owed):  # it may not have seen what is missing since
            return False
        if whole:
            member.whole = view.epoch
        return whole

    async def tend(self) -> None:
        """Settle and look, for ever, whenever there may be something to do."""
        member, runtime = self._member, self._member.runtime
        while True:
            began, epoch, owed = runtime.now(), member.view.epoch, member.order.owed
            with suppress(*_FAILURES):
                await member.settle()
            whole = await self.step()
            now = runtime.now()
            await self._rest(epoch, _TEND_SECONDS * runtime.chance.uniform(0.5, 1.5))  # also while every put is short
            if whole:
                # The next thing to do is to drop what is surplus. Looks until then find nothing, and go through all
                # keys of all nodes: they took 3 % of a core on each of four idle nodes with 10,000 keys.
                left = self._whole_since[1] + self._grace_seconds - now if self._whole_since[0] == epoch else 0.0
                seconds = left if left > 0 else self._look_seconds
                await self._rest(epoch, max(seconds, _LOOK_SHARE * (now - began)), owed)

    async def _rest(self, epoch: int, seconds: float, owed: int | None = None) -> None:
        """Wait, but not into another epoch, nor when more is `owed` than that."""
        member, runtime = self._member, self._member.runtime
        end = runtime.now() + seconds
        while member.view.epoch == epoch and (left := end - runtime.now()) > 0:
            if owed is not None and member.order.owed != owed:
                return
            await runtime.sleep(min(left, _TEND_SECONDS))

    # -- a member that joins ------------------------------------------------------------------------------------------

    async def _catch_up(self, view: View) -> bool:
        self._is_full = False
        for first in view.live:
            after: str | None = ""
            while after is not None:
                after = await self._catch_up_page(view, first, after)
        return not self._is_full

    async def _catch_up_page(self, view: View, first: str, after: str) -> str | None:
        """Have, of one page of the keys that `first` orders, those that are to be here. Return where to go on."""
        member = self._member
        rows = await member.at(first).listing(view.epoch, first, after, PAGE)
        end = rows[-1][0] if len(rows) == PAGE else None
        theirs = {key: rank for key, rank, kind in rows if kind != Kind.HOLD and member.name in view.writers(key)}
        ours = {key: rank for key, rank, kind in await self._own(view, first, after, end) if kind != Kind.HOLD}
        wanted = [
            key
            for key, rank in theirs.items()
            if ours.get(key) != rank and not self._is_new(view, ours.get(key)) and not view.is_lost(key)
        ]
        surplus = [key for key in ours if key not in theirs and not self._is_new(view, ours[key])]
        # `seen`: where threads or processes have this node, the first home may have written to it since that look.
        member.node.erase([key for key in surplus if not view.is_lost(key)], seen=ours)
        async for records in every_record(member.at(first), view.epoch, wanted):
            member.same_epoch(view.epoch)
            try:
                member.node.store(records, seen=ours)
            except DiskFull:  # a later page may say what is to be erased
                self._is_full = True
            else:
                await self._count(records)
        return end

    def _is_new(self, view: View, rank: int | None) -> bool:
        """Whether it was written in this epoch: it came from the first home just now."""
        return rank is not None and rank >> RANK_BITS >= view.epoch

    async def _own(self, view: View, first: str, after: str, end: str | None) -> list[Row]:
        """Return the rows here, of keys that `first` orders, from above `after` up to `end`."""
        found: list[Row] = []
        while True:
            rows = await self._member.listing(view.epoch, first, after, PAGE)
            found += [row for row in rows if end is None or row[0] <= end]
            if len(rows) < PAGE or (end is not None and rows[-1][0] >= end):
                return found
            after = rows[-1][0]

    # -- a member that is live ----------------------------------------------------------------------------------------

    async def _repair(self, view: View) -> bool:
        member = self._member
        work = _Work()
        frames: dict[str, int] = {}
        after: str | None = ""
        while after is not None:
            after = await self._look(view, after, work, frames)
        missing = sum(map(len, work.short.values()))
        for key in sorted(work.short, key=lambda key: (len(view.keepers(key)) - len(work.short[key]), key)):
            (record,) = await member.records(view.epoch, [key]) or (None,)
            if record is None:
                continue
            for node in work.short[key]:
                with suppress(DiskFull):  # the other nodes are to have theirs
                    await member.at(node).replicate(view.epoch, member.name, 0, [record], ())
                    await self._count([record])
        missing += await self._repair_chunks(view, frames)
        self.progress.missing = missing
        if missing or any(view.is_lost(key) for key in frames):
            self._whole_since = (0, 0.0)
            return False
        if self._whole_since[0] != view.epoch:
            self._whole_since = (view.epoch, member.runtime.now())
        if member.runtime.now() - self._whole_since[1] >= self._grace_seconds:
            await self._drop(view, work)
            await self._forget_decisions(view, work.decisions)
        return True

    async def _look(self, view: View, after: str, work: _Work, frames: dict[str, int]) -> str | None:
        """Compare one page of the keys that this member orders with what the others have of them."""
        member = self._member
        rows = await member.listing(view.epoch, member.name, after, PAGE)
        end = rows[-1][0] if len(rows) == PAGE else None
        ours = {key: rank for key, rank, kind in rows if kind != Kind.HOLD}
        frames.update((key, rank) for key, rank, kind in rows if kind == Kind.SPREAD)
        work.decisions += [key for key in ours if key.startswith(DECISION)]
        work.holds += [(member.name, key) for key, _, kind in rows if kind == Kind.HOLD]
        for node in view.present:
            if node != member.name:
                await self._compare(view, node, after, end, ours, work)
        return end

    async def _compare(
        self, view: View, node: str, after: str, end: str | None, ours: dict[str, int], work: _Work
    ) -> None:
        theirs: dict[str, int] = {}
        while True:
            rows = await self._member.at(node).listing(view.epoch, self._member.name, after, PAGE)
            for key, rank, kind in rows:
                if end is not None and key > end:
                    break
                if kind == Kind.HOLD:
                    work.holds.append((node, key))
                else:
                    theirs[key] = rank
            if len(rows) < PAGE or (end is not None and rows[-1][0] > end):
                break
            after = rows[-1][0]
        for key, rank in ours.items():
            matters = key in theirs or not key.startswith(DECISION)  # of those no more copies are wanted
            if node in view.keepers(key) and theirs.get(key, -1) < rank and matters:
                work.short[key].append(node)
        for key in theirs:
            if key not in ours or node not in view.writers(key):
                work.stale[node].append(key)

    async def _repair_chunks(self, view: View, frames: dict[str, int]) -> int:
        """Have the chunks of each frame where they belong; return how many copies were missing."""
        missing = 0
        for key, rank in frames.items():
            (record,) = await self._member.records(view.epoch, [key]) or (None,)
            if record is None or record.rank != rank or record.kind != Kind.SPREAD:
                continue
            missing += await self._repair_frame(view, record)
        return missing

    async def _repair_frame(self, view: View, record: Record) -> int:
        member = self._member
        manifest = Manifest.decode(record.payload)
        name = hold_key(record.key, record.rank)
        has: dict[str, set[str]] = {}
        for node in view.present:
            found = await member.at(node).records(view.epoch, [name])
            has[node] = set(found[0].payload.decode().split("\n")) if found and found[0].kind == Kind.HOLD else set()
        wanted: dict[str, set[str]] = defaultdict(set)
        for chunk_id, assigned in zip(manifest.chunk_ids, manifest.chunk_homes, strict=True):
            for node in view.chunk_keepers(chunk_id, assigned):
                if chunk_id not in has.get(node, ()):
                    wanted[node].add(chunk_id)
        for node, ids in sorted(wanted.items()):
            sources = {one: tuple(sorted(other for other in view.present if one in has[other])) for one in sorted(ids)}
            hold = Record(name, record.rank, Kind.HOLD, "\n".join(sorted(has.get(node, set()))).encode())
            with suppress(DiskFull):
                self.progress.bytes += await copy_chunks(member, view, node, hold, sources)
                self.progress.chunks += len(ids)
        return sum(map(len, wanted.values()))

    async def _drop(self, view: View, work: _Work) -> None:
        """Have others forget what they need not have, while nothing of this member is on its way."""
        member = self._member
        async with member.order.stillness(view.epoch):
            here = member.node.records([key for keys in work.stale.values() for key in keys])
            for node, keys in work.stale.items():
                gone = [
                    key for key in keys if not view.is_lost(key) and (key not in here or node not in view.writers(key))
                ]
                await member.at(node).release(view.epoch, gone)
                self.progress.dropped += len(gone)
            frames = member.node.records([held_key(hold) for _, hold in work.holds])
            for node, hold in work.holds:
                if view.is_lost(held_key(hold)):  # who knows the frame is to come back
                    continue
                # Who was a home for a while only would keep its hold for good: nobody tells it when the frame goes.
                if node not in _keepers(view, hold, frames.get(held_key(hold))):
                    await member.at(node).release(view.epoch, [hold])
                    self.progress.dropped += 1

    async def _forget_decisions(self, view: View, keys: Sequence[str]) -> None:
        """Delete what decided batches, and what was reserved for some, in epochs that all have settled since."""
        member = self._member
        reserved = member.node.records(reservations_on(member.node)).values()
        if not (keys or reserved) or view.base != view.live or view.fell:
            return
        answers = await member.runtime.together([member.at(node).get(view.epoch, ()) for node in view.present])
        if any(isinstance(answer, BaseException) for answer in answers):
            return
        member.node.erase([record.key for record in reserved if record.rank >> RANK_BITS < view.epoch])
        for key, record in member.node.records(keys).items():
            if record.kind == Kind.BYTES and record.rank >> RANK_BITS < view.epoch:
                request = Request(f"{member.name}:{member.incarnation}", next(self._numbers), view.epoch)
                await member.write(view.epoch, request, [Write(key, Kind.DELETED)])

    async def _count(self, records: Sequence[Record]) -> None:
        size = sum(len(record.payload) for record in records)
        self.progress.keys += len(records)
        self.progress.bytes += size
        if size:
            await self._member.runtime.sleep(size / self._rate)


def _keepers(view: View, hold: str, frame: Record | None) -> set[str]:
    """Return the nodes that are to have `hold`, whose key holds `frame` now; who joins may become one of them."""
    if frame is None or frame.kind != Kind.SPREAD or hold != hold_key(frame.key, frame.rank):
        return set()
    return chunk_nodes(view, frame) | (set(view.present) - set(view.live))
