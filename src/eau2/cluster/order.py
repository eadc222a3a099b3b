"""The writes of the keys whose first home a member is: judged, copied to all other writers, then done here.

One batch at a time, under a lock: whoever gets it leads all that wait. What is done here last is seen here only once
every copy has it, so no read shows what a death could take back. A batch that was cut short stays noted as in flight,
and the next leader undoes it everywhere before anything else.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eau2.cluster.delivery import NOTHING, Changes, Delivery, Flight
from eau2.cluster.keys import RESERVED, encode_records
from eau2.cluster.peer import BYTES_PER_SECOND, DecisionForgotten, NotServing, Unreachable, WrongEpoch
from eau2.errors import Eau2Error, OutcomeUnknown
from eau2.store.nodes import RANK_BITS, VERSION_MASK, Kind, Record, refusal
from eau2.values.key import HOLD, hold_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from eau2.cluster.member import Member
    from eau2.cluster.peer import Done, Request
    from eau2.cluster.view import View
    from eau2.store.nodes import Write

_AGAIN_SECONDS = 0.02  # between tries to reach a writer that does not answer
_ENDED_MAX = 1000
_RESERVED_SECONDS = 3.0  # after so long the writer of a batch is taken for dead, and later if there is much to be sent

Outcome = int | Eau2Error


class _Ticket:
    """The writes of one request, and what became of them."""

    __slots__ = ("done", "epoch", "failure", "outcomes", "request", "writes")

    def __init__(self, epoch: int, request: Request, writes: Sequence[Write]) -> None:
        self.epoch, self.request, self.writes = epoch, request, writes
        self.outcomes: tuple[Outcome, ...] = ()
        self.failure: BaseException | None = None
        self.done = False

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(write.key for write in self.writes)

    def fail(self, error: BaseException) -> None:
        self.failure, self.done = error, True

    def succeed(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes, self.done = tuple(outcomes), True


@dataclass(slots=True)
class _Reserved:
    batch: str
    flight: Flight
    outcomes: list[Outcome]
    until: float  # its writer is taken for dead who has not ended it by then
    ending: bool = False


class Order:
    """Orders writes for `member`. Several coroutines or threads may call it."""

    def __init__(self, member: Member, name: str) -> None:
        self._member = member
        self._decisions = name == "decisions"
        self._asked = member.node.figures.asked
        self._asked.by_homes = True
        self.delivery = Delivery(member, f"{member.name}/{name}", self._admit)
        self._lock = member.runtime.lock(name)
        self._queue: deque[_Ticket] = deque()
        self._numbers = itertools.count(1)
        self._flight: Flight | None = None
        self._burned: dict[str, int] = {}  # versions that failed: never given again, as a late message may bring them
        self._reserved: _Reserved | None = None  # it holds the lock
        self._ended: dict[str, bool] = {}  # batches that were reserved here, and whether they were decided
        self.blocked: frozenset[str] = frozenset()  # keys that are reserved: not to be read
        self.owed = 0  # batches that were done with fewer copies of a chunk than there are to be: repair makes them

    async def write(self, epoch: int, request: Request, writes: Sequence[Write]) -> list[Outcome]:
        """As `Peer.write`."""
        ticket = _Ticket(epoch, request, writes)
        self._queue.append(ticket)  # the lock's holder takes it, or we do when we hold the lock
        try:
            await self._acquire()
        except BaseException:
            self._withdraw(ticket)
            raise
        try:
            if not ticket.done:
                await self._lead(ticket)
        finally:
            self._lock.release()
        if ticket.failure is not None:
            raise ticket.failure
        return list(ticket.outcomes)

    async def adopt(
        self, view: View, records: Sequence[Record], done: Done = (), *, short_of_room: bool = False
    ) -> None:
        """Have everybody have `records`, which some have from an epoch that ended before they were done, and what the
        requests that wrote them came to. short_of_room: as far as there is room, where not relied on."""
        await self._acquire()
        try:
            changes = Changes({record.key: record for record in records})
            self._note(changes)
            sure, rest = (Flight(view.epoch, next(self._numbers), changes) for _ in range(2))
            await self.delivery.adopt(sure, rest, done, short_of_room=short_of_room)
            self._member.node.store(list(records))
            self._note(NOTHING)  # what a killed process left in flight is undone once all is adopted that is to be
        finally:
            self._lock.release()

    @asynccontextmanager
    async def stillness(self, epoch: int) -> AsyncIterator[None]:
        """Inside, no write is on its way."""
        await self._acquire()
        try:
            self._admit(epoch)
            await self._even_out()
            yield
        finally:
            self._lock.release()

    # -- batches of several members -----------------------------------------------------------------------------------

    async def reserve(self, epoch: int, batch: str, writes: Sequence[Write]) -> tuple[list[Outcome], list[Record]]:
        """As `Peer.reserve`: takes the lock and keeps it until `finish`."""
        found = self._reserved
        if found is None or found.batch != batch:
            await self._acquire()
            try:
                found = await self._reserve(epoch, batch, writes)
            except BaseException:
                self._lock.release()
                raise
        return found.outcomes, list(found.flight.changes.records.values())

    async def _reserve(self, epoch: int, batch: str, writes: Sequence[Write]) -> _Reserved:
        self._admit(epoch)
        if batch in self._ended:  # a late copy of the request
            raise NotServing
        await self._even_out()
        changes = Changes()
        (outcomes,) = self._judge_all([writes], changes)
        self._flight = Flight(epoch, next(self._numbers), changes)
        self._note(changes)
        await self.delivery.publish(self._flight)
        if self._member.leased and changes.records:
            keys = encode_records(Record(key, 0, Kind.DELETED) for key in changes.records)
            self._member.node.store([Record(RESERVED + batch, epoch << RANK_BITS | 1, Kind.BYTES, keys)])
        self._admit(epoch)
        self.blocked = frozenset(changes.records)
        size = sum(len(record.payload) for record in changes.records.values())
        patience = _RESERVED_SECONDS + size * len(self._member.view.live) / BYTES_PER_SECOND  # others have as much
        self._reserved = _Reserved(batch, self._flight, outcomes, self._member.runtime.now() + patience)
        return self._reserved

    async def finish(self, epoch: int, batch: str, *, decided: bool, again: bool = False) -> None:
        """As `Peer.finish`."""
        self._member.same_epoch(epoch)
        found = self._reserved
        if found is None or found.batch != batch:
            if self._ended.setdefault(batch, False) != decided:
                raise NotServing
            return
        if found.ending:
            raise NotServing
        found.ending = True
        try:
            if decided:
                await self.delivery.replicate(found.flight, ())
                self._member.node.store(list(found.flight.changes.records.values()))
                await self._landed(found.flight)
            else:
                await self._even_out(again=again)
        finally:
            found.ending = False
        if self._reserved is found:
            self._end(found, decided=decided)
            self._asked.count(len(found.outcomes) if decided else 0)
            if self._member.leased:
                with contextlib.suppress(Eau2Error):  # what is left is asked for once more, at the next epoch
                    self._member.node.erase([RESERVED + batch])

    def give_up(self, batch: str) -> None:
        """Let go of `batch`, neither done nor undone: the next to write finds it in flight."""
        found = self._reserved
        if found is not None and found.batch == batch:
            self._end(found, decided=False)

    def overdue(self) -> str:
        """Return the batch whose writer should have ended it by now, or ""."""
        found = self._reserved
        late = found is not None and not found.ending and self._member.runtime.now() > found.until
        return found.batch if found is not None and late else ""

    def reset(self) -> None:
        """The epoch has ended: what was reserved in it is settled by the next."""
        found, self._flight = self._reserved, None
        self._burned.clear()
        if found is not None:
            self._end(found, decided=False)

    def _end(self, found: _Reserved, *, decided: bool) -> None:
        self._ended[found.batch] = decided
        while len(self._ended) > _ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._reserved, self.blocked = None, frozenset()
        self._lock.release()

    async def _acquire(self) -> None:
        noted = await self._lock.acquire()
        if self._member.has_ended:  # the lock is that of who was started in its place
            self._lock.release()
            raise NotServing
        if noted and self._flight is None:  # a process was killed in the middle of it: not even what it wrote is known
            view = self._member.view
            ours = [key for key in noted if self._knows(view, key)]
            changes = Changes({key: Record(key, 0, Kind.DELETED) for key in ours})
            self._flight = Flight(view.epoch, next(self._numbers), changes)
        if noted and self._flight is not None:
            self._flight.changes.holds = tuple(key for key in noted if key.startswith(HOLD))

    def _knows(self, view: View, key: str) -> bool:
        """Whether what is here under `key` is right: others may have later writes of a key that is lost."""
        return self._member.orders(view, key) and not key.startswith(HOLD) and not view.is_lost(key)

    # -- under the lock -----------------------------------------------------------------------------------------------

    def _admit(self, epoch: int) -> None:
        self._member.admit(epoch, decisions=self._decisions)

    def _withdraw(self, ticket: _Ticket) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)

    async def _lead(self, own: _Ticket) -> None:
        batch = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            await self._do(batch)
        except Exception as error:
            for ticket in batch:
                if not ticket.done:
                    ticket.fail(error)
                    if isinstance(error, Eau2Error):  # whoever asked is told that it is not done: nor if it comes again
                        self._member.remember([(ticket.request, ticket.keys, (error,) * len(ticket.writes))])
        except BaseException:  # Ctrl-C in this thread is not the others': they lead themselves
            self._queue.extendleft(ticket for ticket in reversed(batch) if not ticket.done and ticket is not own)
            raise

    async def _do(self, batch: list[_Ticket]) -> None:
        member = self._member
        view = member.view
        self._admit(view.epoch)
        await self._even_out()
        self._admit(view.epoch)  # that may have taken longer than the lease
        fresh: dict[Request, list[_Ticket]] = defaultdict(list)  # a request may have come twice
        for ticket in batch:
            known = member.done.get(ticket.request)
            if ticket.epoch != view.epoch:
                ticket.fail(WrongEpoch(view))
            elif known is not None:
                ticket.succeed(known[1])
            elif ticket.request.epoch < member.sure_from:
                ticket.fail(OutcomeUnknown("the nodes that would know whether it was done were started anew"))
            else:
                fresh[ticket.request].append(ticket)
        changes = Changes()
        judged = self._judge_all([ticket.writes for ticket, *_ in fresh.values()], changes)
        done = tuple(
            (request, ticket.keys, tuple(outcomes))
            for (request, (ticket, *_)), outcomes in zip(fresh.items(), judged, strict=True)
        )
        if changes.records:
            await self._commit(Flight(view.epoch, next(self._numbers), changes), done)
        member.remember(done)
        if not self._decisions:  # these are ours, and no client's
            self._asked.count(sum(len(keys) for _, keys, _ in done))
        for request, _, came_to in done:
            for ticket in fresh[request]:
                ticket.succeed(came_to)

    def _judge_all(self, requests: Sequence[Sequence[Write]], changes: Changes) -> list[list[Outcome]]:
        """Return what the writes of each of `requests` come to, one after the other, and note what they change."""
        now = self._member.node.records([write.key for writes in requests for write in writes])
        changes.before.update(now)
        return [self._judge_request(writes, now, changes) for writes in requests]

    def _judge_request(self, writes: Sequence[Write], now: dict[str, Record], changes: Changes) -> list[Outcome]:
        lost = next((error for write in writes if (error := self._member.lost(write.key)) is not None), None)
        if lost is not None:  # who is told so takes it that nothing was changed
            return [lost] * len(writes)
        outcomes: list[Outcome] = []
        for write in writes:
            outcome, record = self._judge(write, now.get(write.key))
            outcomes.append(outcome)
            if record is not None:
                now[write.key] = changes.records[write.key] = record
                changes.chunks[write.key] = write.chunks
        return outcomes

    def _judge(self, write: Write, known: Record | None) -> tuple[Outcome, Record | None]:
        there = known is not None and known.kind != Kind.DELETED
        if self._decisions and known is not None and not there and write.kind != Kind.DELETED:
            # Not told by its version: versions are left out when a disk is full.
            return DecisionForgotten("write: it was decided, and forgotten, whether it is done"), None
        refused = refusal(write.key, write.expect, known.rank & VERSION_MASK if known is not None and there else None)
        if refused is not None:
            return refused, None
        if write.kind == Kind.DELETED and not there:
            return 0, None
        last = self._member.node.version_floor() if known is None else known.rank & VERSION_MASK
        version = max(last, self._burned.get(write.key, 0)) + 1
        rank = self._member.view.epoch << RANK_BITS | version
        return version, Record(write.key, rank, write.kind, write.payload)

    async def _commit(self, flight: Flight, done: Done) -> None:
        try:
            await self._have_done(flight, done)
        except (WrongEpoch, NotServing) as error:  # some may have it, and the next epoch finish it
            raise Unreachable(self._member.name) from error

    async def _have_done(self, flight: Flight, done: Done) -> None:
        self._flight = flight
        try:
            self._note(flight.changes)
            await self.delivery.publish(flight)
            await self.delivery.replicate(flight, done)
            self._member.node.store(list(flight.changes.records.values()))
        except Eau2Error:  # a disk is full: nothing is to be changed anywhere
            await self._even_out()
            raise
        await self._landed(flight)

    async def _landed(self, flight: Flight) -> None:
        self._flight = None
        if flight.short:  # noted before it is acknowledged
            self.owed += 1
            self._member.whole = 0
        await self.delivery.let_go(flight)
        self._lock.note(())

    def _note(self, changes: Changes) -> None:
        """Write down what is in flight: the keys, and the holds of their frames of before and after."""
        several = (*changes.records.values(), *(changes.before.get(key) for key in changes.records))
        holds = (hold_key(one.key, one.rank) for one in several if one is not None and one.kind == Kind.SPREAD)
        left = NOTHING if self._flight is None or self._flight.changes is changes else self._flight.changes
        self._lock.note((*changes.records, *holds, *left.records, *left.holds))

    async def _even_out(self, *, again: bool = False) -> None:
        """Undo what is in flight: have all its writers have what is here. `again`: see `Peer.finish`."""
        flight = self._flight
        if flight is None or flight.epoch != self._member.view.epoch:
            self._flight = None
            self._lock.note(())
            return
        changed = flight.changes.records
        for key, record in changed.items():
            self._burned[key] = record.rank & VERSION_MASK
        await self.delivery.revoke(flight, again=again)
        self._flight = None
        self._lock.note(())
