"""One node as a member of a cluster: which epoch it is in, what it may serve, and what it takes from others."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.cluster.client import Client
from eau2.cluster.delivery import unavailable
from eau2.cluster.keys import (
    DECISION,
    RESERVED,
    VIEW,
    decisions_on,
    decode_records,
    first_records,
    reservations_on,
    without_epoch,
)
from eau2.cluster.order import Order
from eau2.cluster.peer import NO_BATCH, Batch, DecisionForgotten, NotServing, Unreachable, Unsettled, WrongEpoch
from eau2.cluster.settling import items_now, settle
from eau2.errors import Corrupt, Eau2Error, NodeUnavailable
from eau2.store.nodes import RANK_BITS, Entry, Kind, Record
from eau2.values.chunk import Chunk, identify
from eau2.values.key import held_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eau2.cluster.order import Outcome
    from eau2.cluster.peer import Done, Outcomes, Peer, Request
    from eau2.cluster.runtime import Runtime
    from eau2.cluster.view import View
    from eau2.store.nodes import Replica, Staged, Write

_DONE_MAX = 4000  # requests whose outcome is remembered, for those whose answer was lost
_UNSETTLED_MAX = 4000  # records that may not be done everywhere; what has long been settled is reported in vain


class Member:
    """A `Peer`: the node, what it knows of the cluster, and the order of the writes that it leads.

    Several coroutines (or threads) may call it. A method that meets the end of its epoch raises WrongEpoch.
    """

    def __init__(
        self,
        name: str,
        node: Replica,
        runtime: Runtime,
        view: View,
        *,
        incarnation: str = "",
        since: int = 0,
        leased: bool = True,
    ) -> None:
        self.name = name
        self.node = node
        self.runtime = runtime
        self.view = view
        self.incarnation = incarnation
        self.whole = 0  # the epoch as of which this member knows that nothing is missing; see `repair.py`
        # Threads share these: each is gone through as a copy, made at once.
        self.done: OrderedDict[Request, tuple[tuple[str, ...], tuple[Outcome, ...]]] = OrderedDict()
        self.sure_from = 1  # requests of earlier epochs that are not in `done` may have been done, and be forgotten
        self._since = since
        self._forgot = since > 0
        self._served = 0  # the epoch that is settled: everything of before is done or undone
        self._decided = 0  # the epoch in which it is settled what was decided
        self.has_ended = False  # threads that are in it still are to do no more
        self._entering = threading.Lock()
        self.leased = leased
        self._lease_until = float("-inf") if leased else float("inf")
        self._latest: dict[str, Batch] = {}  # the last one of each sender in this epoch
        self._revoked: set[tuple[str, int]] = set()  # batches of this epoch
        self._unsettled: OrderedDict[tuple[str, int], Record] = OrderedDict()
        self.in_doubt: frozenset[str] = frozenset()  # keys of batches of which nobody that is here knows the decision
        self._late: OrderedDict[Request, tuple[tuple[str, ...], tuple[Outcome, ...]]] = OrderedDict()
        self.order = Order(self, "order")
        self.decisions = Order(self, "decisions")  # a lock of its own: they are written while keys are reserved
        self._settling = runtime.lock("settle")
        self._undoer = Client(f"{name}:{incarnation}:overdue", runtime, view)

    def __repr__(self) -> str:
        return f"<Member {self.name}: epoch {self.view.epoch}, {'serves' if self._served else 'does not serve'}>"

    # -- the epoch ----------------------------------------------------------------------------------------------------

    def enter(self, view: View) -> None:
        """Leave the epoch for that of `view`, unless that is not later. Serves again when it is settled."""
        with self._entering:
            if view.epoch <= self.view.epoch:
                return
            self._leave(view)
        with contextlib.suppress(Eau2Error):  # a full disk: the others know it too
            self.node.store([Record(VIEW, view.epoch << RANK_BITS, Kind.BYTES, view.encode())])

    def _leave(self, view: View) -> None:
        for batch in list(self._latest.values()):
            self._unsettled.update(((record.key, record.rank), record) for record in batch.records)
            self._late.update((request, (keys, outcomes)) for request, keys, outcomes in batch.done)
        if self.name not in view.live:
            self._unsettled.clear()  # the others went on without it: what they have is right
            self._late.clear()
            self._forgot = False
        while len(self._unsettled) > _UNSETTLED_MAX:
            self._unsettled.popitem(last=False)
        while len(self._late) > _DONE_MAX:
            self._late.popitem(last=False)
        self._latest.clear()
        self._revoked.clear()
        self.view = view
        self._served = self._decided = 0
        self.order.reset()
        self.decisions.reset()

    def same_epoch(self, epoch: int) -> None:
        if epoch != self.view.epoch:
            raise WrongEpoch(self.view)

    def admit(self, epoch: int, *, decisions: bool = False) -> None:
        """Raise unless this member serves in `epoch`, now; keys, or decisions."""
        if epoch != self.view.epoch:
            raise WrongEpoch(self.view)
        if (self._decided if decisions else self._served) != epoch or self.runtime.now() >= self._lease_until:
            raise NotServing

    @property
    def serves(self) -> bool:
        return self._served == self.view.epoch and self.runtime.now() < self._lease_until

    async def renew(self, lease_seconds: float) -> None:
        """Ask the coordinator for another lease, which counts from now, and for the view. Unreachable."""
        asked, whole = self.runtime.now(), self.whole == self.view.epoch
        view = await self.runtime.coordinator().renew(self.name, self.incarnation, self.renewing, whole=whole)
        self.renewed(view, asked + lease_seconds)

    @property
    def renewing(self) -> int:
        """The epoch to renew the lease in: 0 where this member was started anew in it. A coordinator that was started
        anew too may not know; and of requests of this epoch nobody could be sure any more that they were not done."""
        return 0 if self._since == self.view.epoch else self.view.epoch

    def renewed(self, view: View, until: float) -> None:
        """Take in the coordinator's answer: `view`, and a lease until `until`. Other threads may call this while the
        member is in that view: then only the lease is touched."""
        if self.name in view.present and view.epoch >= self.view.epoch:  # else from one who is coordinator no more
            self._lease_until = max(until, self._lease_until)  # answers may come in another order
        self.enter(view)

    async def report(self, names: Iterable[str]) -> None:
        """Tell the coordinator who does not answer, and enter the view that comes of it."""
        for name in names:
            with contextlib.suppress(Unreachable):
                self.enter(await self.runtime.coordinator().suspect(name))

    def at(self, name: str) -> Peer:
        return self if name == self.name else self.runtime.peer(name)

    async def settle(self) -> None:
        """Learn from all other members what may be undone of before, do it everywhere, and serve from then on.

        Returns without serving when this member is not live. Raises NotServing when one does not answer.
        """
        if self._served == self.view.epoch:
            return
        await self._settling.acquire()
        try:
            view = self.view
            if self.name in view.live and self._served != view.epoch:
                await settle(self, view)
        finally:
            self._settling.release()

    def settled_decisions(self, view: View) -> None:
        if self.view.epoch == view.epoch:
            self._decided = view.epoch

    def settled(self, view: View) -> None:
        if self.view.epoch == view.epoch:
            self._served = view.epoch

    def unsettle(self) -> None:
        """Settle this epoch once more before anything is served."""
        self._served = self._decided = 0

    def orders(self, view: View, key: str) -> bool:
        return view.homes(key)[:1] == (self.name,)

    # -- what clients ask ---------------------------------------------------------------------------------------------

    async def _ready(self, epoch: int, *, decisions: bool = False) -> None:
        if epoch == self.view.epoch != (self._decided if decisions else self._served):
            await self.settle()
        self.admit(epoch, decisions=decisions)

    async def get(
        self, epoch: int, keys: Sequence[str], *, deleted: bool = False, again: bool = False
    ) -> list[Entry | None]:
        decisions = bool(keys) and keys[0].startswith(DECISION)
        await self._ready(epoch, decisions=decisions)
        if self.order.blocked and not self.order.blocked.isdisjoint(keys):
            raise NotServing
        if self.view.may_lose:
            self._refuse_lost(keys)
        if deleted or decisions:  # nodes give internal keys as records only
            known = self.node.records(keys)
            found = {key: Entry(record.rank, record.kind, record.payload) for key, record in known.items()}
        else:
            found = self.node.get_many(keys)
        self.node.figures.asked.count(0 if again or decisions else len(keys))
        self.admit(epoch, decisions=decisions)  # also after the look: nobody else has served these keys before it
        return [None if (each := found.get(key)) is None else without_epoch(each) for key in keys]

    async def names(self, epoch: int, prefix: str, limit: int | None, *, frames: bool) -> list[str]:
        await self._ready(epoch)
        if self.order.blocked:
            raise NotServing
        view = self.view
        if view.may_lose and any(view.is_lost(key) for key in self.node.keys(prefix)):
            self._refuse_lost(self.node.keys(prefix))
        known = self.node.frames() if frames else self.node.keys(prefix)
        ours = [key for key in known if self.orders(view, key)]
        self.admit(epoch)
        return ours[:limit]

    def _refuse_lost(self, keys: Iterable[str]) -> None:
        if (error := next(filter(None, map(self.lost, keys)), None)) is not None:
            raise error

    async def write(self, epoch: int, request: Request, writes: Sequence[Write]) -> list[int | Eau2Error]:
        decisions = writes[0].key.startswith(DECISION)
        await self._ready(epoch, decisions=decisions)
        return await (self.decisions if decisions else self.order).write(epoch, request, writes)

    async def reserve(
        self, epoch: int, batch: str, writes: Sequence[Write]
    ) -> tuple[list[int | Eau2Error], tuple[Record, ...]]:
        await self._ready(epoch)
        outcomes, records = await self.order.reserve(epoch, batch, writes)
        return outcomes, tuple(records)

    async def finish(self, epoch: int, batch: str, *, decided: bool, again: bool = False) -> None:
        await self.order.finish(epoch, batch, decided=decided, again=again)

    # -- what other members ask ---------------------------------------------------------------------------------------

    async def hold(self, epoch: int, record: Record) -> None:
        self.same_epoch(epoch)
        self.node.store([record])

    async def release(self, epoch: int, hold_keys: Sequence[str]) -> None:
        self.same_epoch(epoch)
        self.node.erase(hold_keys)

    async def replicate(self, epoch: int, sender: str, number: int, records: Sequence[Record], done: Done) -> None:
        self.same_epoch(epoch)
        if (sender, number) in self._revoked:
            return
        self.node.store(records)
        latest = self._latest.get(sender, NO_BATCH)
        if number > latest.number:
            self.remember(latest.done)  # its sender goes on when every writer has it
            self._latest[sender] = Batch(number, tuple(records), done)
            if len(self._unsettled) < _UNSETTLED_MAX:  # adopted, and maybe not by who will order the key: it asks
                self._unsettled.update(((one.key, one.rank), one) for one in records if one.rank >> RANK_BITS < epoch)

    async def revoke(self, epoch: int, sender: str, number: int, before: Sequence[Record]) -> None:
        self.same_epoch(epoch)
        self._revoked.add((sender, number))
        self.node.erase([record.key for record in before if record.rank == 0])
        self.node.store([record for record in before if record.rank], force=True)
        if self._latest.get(sender, NO_BATCH).number == number:
            del self._latest[sender]

    async def collect(self, view: View, by: str) -> Unsettled:
        self.enter(view)
        self.same_epoch(view.epoch)
        late = [record for record in list(self._unsettled.values()) if view.homes(record.key)[:1] == (by,)]
        decided = self.node.records(decisions_on(self.node)).values()
        done = tuple((request, *known) for request, known in items_now(self.done))
        of_late = tuple(
            (request, keys, outcomes)
            for request, (keys, outcomes) in items_now(self._late)
            if any(view.homes(key)[:1] == (by,) for key in keys)
        )
        reserved = self.node.records(reservations_on(self.node)).values()
        batches = {
            one.key.replace(RESERVED, DECISION, 1): tuple(record.key for record in decode_records(one.payload))
            for one in (*reserved, *decided)
            if one.payload
        }
        return Unsettled(tuple(late), of_late, done, self._since, self._forgot, tuple(batches.items()))

    async def listing(self, epoch: int, first: str, after: str, limit: int) -> list[tuple[str, int, int]]:
        if first == self.name:  # what it orders is right once it has settled
            await self._ready(epoch)
        self.same_epoch(epoch)
        found: list[tuple[str, int, int]] = []
        while len(found) < limit:
            rows = self.node.listing(after, limit)
            for key, rank, kind in rows:
                user = held_key(key) if kind == Kind.HOLD else key
                if key != VIEW and not key.startswith(RESERVED) and self.view.homes(user)[:1] == (first,):
                    found.append((key, rank, kind))
            if len(rows) < limit:
                break
            after = rows[-1][0]
        return found[:limit]

    async def records(self, epoch: int, keys: Sequence[str]) -> list[Record]:
        self.same_epoch(epoch)
        return first_records(self.node, keys)

    async def chunk(self, epoch: int, chunk_id: str) -> bytes:
        self.same_epoch(epoch)
        return bytes(self.node.map([chunk_id])[0])

    async def copy(self, epoch: int, hold: Record, sources: Sequence[tuple[str, tuple[str, ...]]]) -> int:
        self.same_epoch(epoch)
        ids = [chunk_id for chunk_id, _ in sources]
        staged: list[Staged] = []
        moved = 0
        try:
            for (chunk_id, nodes), there in zip(sources, self.node.has_chunks(ids), strict=True):
                if not there:
                    data = await self._fetch(epoch, chunk_id, nodes)
                    staged.append(self.node.stage(Chunk(chunk_id, 0, len(data), (pa.py_buffer(data),))))
                    moved += len(data)
            self.same_epoch(epoch)
            self.node.store([hold._replace(chunks=tuple(staged))], force=True)
        except BaseException:
            self.node.discard(staged)
            raise
        return moved

    async def mend(self, epoch: int, chunk_id: str, nodes: Sequence[str]) -> int:
        self.same_epoch(epoch)
        data = await self._fetch(epoch, chunk_id, nodes)
        staged = self.node.stage(Chunk(chunk_id, 0, len(data), (pa.py_buffer(data),)))
        try:
            self.node.mend(staged)
        except BaseException:
            self.node.discard([staged])
            raise
        return len(data)

    async def _fetch(self, epoch: int, chunk_id: str, nodes: Sequence[str]) -> bytes:
        for name in nodes:
            with contextlib.suppress(Unreachable, FileNotFoundError, Corrupt):
                data = await self.at(name).chunk(epoch, chunk_id)
                if identify(data) == chunk_id:
                    return data
        raise FileNotFoundError(f"chunk {chunk_id} on {', '.join(nodes) or 'no node'}")

    def forget(self, key: str) -> None:
        """Forget the decision of a batch that is done, and that nobody asks for any more, without a trace."""
        self.node.erase([key])
        for known in [each for each in list(self._unsettled) if each[0] == key]:
            self._unsettled.pop(known, None)
        for sender, latest in items_now(self._latest):
            if any(record.key == key for record in latest.records):
                del self._latest[sender]

    # -- for `order` and `repair` -------------------------------------------------------------------------------------

    def remember(self, done: Iterable[Outcomes]) -> None:
        for request, keys, outcomes in done:
            self.done[request] = keys, outcomes
            self._late.pop(request, None)
        while len(self.done) > _DONE_MAX:
            self.done.popitem(last=False)

    def lost(self, key: str) -> NodeUnavailable | None:
        """Return why nobody can say now what is under `key`, if so."""
        if self.view.is_lost(key):
            return unavailable(key, self.view)
        if key in self.in_doubt:
            down = ", ".join(self.view.awaits)
            return NodeUnavailable(f"{key!r} is in a write of several keys; down: {down}, who know whether it was done")
        return None

    async def end_overdue(self) -> None:
        """End the batch that was reserved here and whose writer is not heard of any more."""
        batch = self.order.overdue()
        if batch:
            self._undoer.view = self.view
            with contextlib.suppress(Eau2Error, NotServing, Unreachable, WrongEpoch):
                try:
                    undone = await self._undoer.undo(batch)
                except DecisionForgotten:  # all have settled since that was decided, and so will this member
                    self.order.give_up(batch)
                    return
                # Its writer may be slow, and try again.
                await self.order.finish(self.view.epoch, batch, decided=not undone, again=True)
