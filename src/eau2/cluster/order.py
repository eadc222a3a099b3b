"""The writes of the keys whose first home a member is: judged, copied to all other writers, then done here.

One batch at a time, under a lock: whoever gets it leads all that wait. What is done here last is seen here only once
every copy has it, so no read shows what a death could take back. A batch that was cut short stays noted as in flight,
and the next leader undoes it everywhere before anything else.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.errors import Eau2Error, NodeUnavailable, OutcomeUnknown
from eau2.store.nodes import RANK_BITS, VERSION_MASK, Kind, Record, refusal
from eau2.values.key import HOLD, held_key, hold_key
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from eau2.cluster.member import Member
    from eau2.cluster.peer import Done, Request
    from eau2.cluster.view import View
    from eau2.store.nodes import Staged, Write

_AGAIN_SECONDS = 0.02  # between tries to reach a writer that does not answer
_ENDED_MAX = 1000

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
class _Changes:
    """What a batch comes to."""

    records: dict[str, Record] = field(default_factory=dict)
    before: dict[str, Record] = field(default_factory=dict)
    chunks: dict[str, tuple[Staged, ...]] = field(default_factory=dict)  # of frames, by key
    holds: tuple[str, ...] = ()  # that who was cut short may have left, on any node


_NOTHING = _Changes()


@dataclass(slots=True)
class _Flight:
    """A batch that others may have and that is not done here."""

    epoch: int
    number: int
    changes: _Changes


@dataclass(slots=True)
class _Reserved:
    batch: str
    flight: _Flight
    outcomes: list[Outcome]
    since: float
    ending: bool = False


class Order:
    """Orders writes for `member`. Several coroutines or threads may call it."""

    def __init__(self, member: Member, name: str) -> None:
        self._member = member
        self._sender = f"{member.name}/{name}"  # batches of each order are numbered for themselves
        self._decisions = name == "decisions"
        self._lock = member.runtime.lock(name)
        self._queue: deque[_Ticket] = deque()
        self._numbers = itertools.count(1)
        self._flight: _Flight | None = None
        self._burned: dict[str, int] = {}  # versions that failed: never given again, as a late message may bring them
        self._reserved: _Reserved | None = None  # it holds the lock
        self._ended: dict[str, bool] = {}  # batches that were reserved here, and whether they were decided
        self.blocked: frozenset[str] = frozenset()  # keys that are reserved: not to be read

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

    async def adopt(self, view: View, records: Sequence[Record]) -> None:
        """Have everybody have `records`, which some have from an epoch that ended before they were done."""
        await self._acquire()
        try:
            changes = _Changes({record.key: record for record in records})
            self._note(changes)
            await self._replicate(_Flight(view.epoch, next(self._numbers), changes), ())
            self._member.node.store(list(records))
            await self._even_out()  # after: what a killed process left in flight may be what is adopted
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
        changes = _Changes()
        outcomes = self._judge_all(writes, changes)
        self._flight = _Flight(epoch, next(self._numbers), changes)
        await self._publish(self._flight)
        self._admit(epoch)
        self.blocked = frozenset(changes.records)
        self._reserved = _Reserved(batch, self._flight, outcomes, self._member.runtime.now())
        return self._reserved

    async def finish(self, epoch: int, batch: str, *, decided: bool) -> None:
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
                await self._replicate(found.flight, ())
                self._member.node.store(list(found.flight.changes.records.values()))
                await self._landed(found.flight)
            else:
                await self._even_out()
        finally:
            found.ending = False
        if self._reserved is found:
            self._end(found, decided=decided)

    def give_up(self, batch: str) -> None:
        """Let go of `batch`, neither done nor undone: the next to write finds it in flight."""
        found = self._reserved
        if found is not None and found.batch == batch:
            self._end(found, decided=False)

    def overdue(self, seconds: float) -> str:
        """Return the batch that has been reserved for longer than `seconds`, or ""."""
        found = self._reserved
        late = found is not None and not found.ending and self._member.runtime.now() - found.since > seconds
        return found.batch if found is not None and late else ""

    def reset(self) -> None:
        """The epoch has ended: what was reserved in it is settled by the next."""
        found, self._flight = self._reserved, None
        self._burned.clear()
        if found is not None:
            self._member.cut_short(found.batch, found.flight.changes.records)
            self._end(found, decided=False)

    def _end(self, found: _Reserved, *, decided: bool) -> None:
        self._ended[found.batch] = decided
        while len(self._ended) > _ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._reserved, self.blocked = None, frozenset()
        self._lock.release()

    async def _acquire(self) -> None:
        noted = await self._lock.acquire()
        if noted and self._flight is None:  # a process was killed in the middle of it: not even what it wrote is known
            view = self._member.view
            ours = [key for key in noted if view.homes(key)[:1] == (self._member.name,) and not key.startswith(HOLD)]
            changes = _Changes({key: Record(key, 0, Kind.DELETED) for key in ours})
            self._flight = _Flight(view.epoch, next(self._numbers), changes)
        if noted and self._flight is not None:
            self._flight.changes.holds = tuple(key for key in noted if key.startswith(HOLD))

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
        changes = _Changes()
        writes = [write for ticket, *_ in fresh.values() for write in ticket.writes]
        outcomes = iter(self._judge_all(writes, changes))
        done = tuple(
            (request, ticket.keys, tuple(itertools.islice(outcomes, len(ticket.writes))))
            for request, (ticket, *_) in fresh.items()
        )
        if changes.records:
            await self._commit(_Flight(view.epoch, next(self._numbers), changes), done)
        member.remember(done)
        for request, _, came_to in done:
            for ticket in fresh[request]:
                ticket.succeed(came_to)

    def _judge_all(self, writes: Sequence[Write], changes: _Changes) -> list[Outcome]:
        now = self._member.node.records([write.key for write in writes])
        changes.before.update(now)
        outcomes: list[Outcome] = []
        for write in writes:
            outcome, record = self._judge(write, now.get(write.key))
            outcomes.append(outcome)
            if record is not None:
                now[write.key] = changes.records[write.key] = record
                changes.chunks[write.key] = write.chunks
        return outcomes

    def _judge(self, write: Write, known: Record | None) -> tuple[Outcome, Record | None]:
        view = self._member.view
        lost = self._member.lost(write.key)
        if lost is not None:
            return lost, None
        there = known is not None and known.kind != Kind.DELETED
        refused = refusal(write.key, write.expect, known.rank & VERSION_MASK if known is not None and there else None)
        if refused is not None:
            return refused, None
        if write.kind == Kind.DELETED and not there:
            return 0, None
        last = self._member.node.version_floor() if known is None else known.rank & VERSION_MASK
        version = max(last, self._burned.get(write.key, 0)) + 1
        return version, Record(write.key, view.epoch << RANK_BITS | version, write.kind, write.payload)

    async def _commit(self, flight: _Flight, done: Done) -> None:
        try:
            await self._have_done(flight, done)
        except (WrongEpoch, NotServing) as error:  # some may have it, and the next epoch finish it
            raise Unreachable(self._member.name) from error

    async def _have_done(self, flight: _Flight, done: Done) -> None:
        self._flight = flight
        try:
            await self._publish(flight)
            await self._replicate(flight, done)
            self._member.node.store(list(flight.changes.records.values()))
        except Eau2Error:  # a disk is full: nothing is to be changed anywhere
            await self._even_out()
            raise
        await self._landed(flight)

    async def _landed(self, flight: _Flight) -> None:
        self._flight = None
        await self._let_go(flight)
        self._lock.note(())

    def _note(self, changes: _Changes) -> None:
        """Write down what is in flight: the keys, and the holds of their frames of before and after."""
        several = (*changes.records.values(), *(changes.before.get(key) for key in changes.records))
        holds = (hold_key(one.key, one.rank) for one in several if one is not None and one.kind == Kind.SPREAD)
        left = _NOTHING if self._flight is None or self._flight.changes is changes else self._flight.changes
        self._lock.note((*changes.records, *holds, *left.records, *left.holds))

    async def _publish(self, flight: _Flight) -> None:
        """Have the chunks of frames held where they are staged: before anything names them."""
        self._note(flight.changes)
        present = set(self._member.view.present)
        holds: list[tuple[str, Record]] = []
        for key, staged in flight.changes.chunks.items():
            record = flight.changes.records[key]
            if record.kind != Kind.SPREAD:
                continue
            parts: dict[str, list[Staged]] = defaultdict(list)
            for copy in staged:
                if copy.node in present:
                    parts[copy.node].append(copy)
            for chunk_id in {copy.id for copy in staged} - {copy.id for part in parts.values() for copy in part}:
                nodes = sorted({copy.node for copy in staged if copy.id == chunk_id})
                raise NodeUnavailable(f"{key!r}: chunk {chunk_id} was written to {', '.join(nodes)}, down since")
            for node, copies in parts.items():
                ids = b"\n".join(sorted({copy.id.encode() for copy in copies}))
                hold = Record(hold_key(key, record.rank), record.rank, Kind.HOLD, ids, tuple(copies))
                holds.append((node, hold))
        member = self._member
        calls = [(node, partial(member.at(node).hold, flight.epoch, hold)) for node, hold in holds]
        try:
            await self._everywhere(flight, calls)
        except FileNotFoundError as error:  # swept: whoever staged it, or the node itself, was started anew since
            raise NodeUnavailable(
                f"chunk {error.filename} is not staged any more", hint="put the frame again"
            ) from None

    async def _replicate(self, flight: _Flight, done: Done) -> None:
        """Have every other writer have the records of `flight`."""
        parts = self._by_writer(flight.changes.records)
        member = self._member
        calls = [
            (node, partial(member.at(node).replicate, flight.epoch, self._sender, flight.number, tuple(records), done))
            for node, records in parts.items()
        ]
        await self._everywhere(flight, calls)

    def _by_writer(self, records: Mapping[str, Record]) -> dict[str, list[Record]]:
        parts: dict[str, list[Record]] = defaultdict(list)
        for record in records.values():
            for node in self._member.view.writers(record.key):
                if node != self._member.name:
                    parts[node].append(record)
        return parts

    async def _even_out(self) -> None:
        """Undo what is in flight: have all its writers have what is here."""
        flight = self._flight
        if flight is None or flight.epoch != self._member.view.epoch:
            self._flight = None
            self._lock.note(())
            return
        changed = flight.changes.records
        for key, record in changed.items():
            self._burned[key] = record.rank & VERSION_MASK
        here = self._member.node.records(list(changed))
        parts = self._by_writer({key: here.get(key, Record(key, 0, Kind.DELETED)) for key in changed})
        member = self._member
        calls = [
            (node, partial(member.at(node).revoke, flight.epoch, self._sender, flight.number, tuple(before)))
            for node, before in parts.items()
        ]
        await self._everywhere(flight, calls)
        unused = [
            (key, changed[key].rank)
            for key in flight.changes.chunks
            if changed[key].kind == Kind.SPREAD and (key not in here or here[key].rank != changed[key].rank)
        ]
        nodes = {copy.node for key, _ in unused for copy in flight.changes.chunks[key]}
        await self.release(nodes, unused)
        await self._release_left(flight.changes.holds)
        self._flight = None
        self._lock.note(())

    async def _release_left(self, holds: Sequence[str]) -> None:
        """Have all nodes let go of those of `holds` whose frame is not there, or of another rank."""
        if not holds:
            return
        member = self._member
        here = member.node.records([held_key(hold) for hold in holds]).values()
        kept = {hold_key(record.key, record.rank) for record in here if record.kind == Kind.SPREAD}
        gone = tuple(hold for hold in holds if hold not in kept)
        epoch = member.view.epoch
        await member.runtime.together([member.at(node).release(epoch, gone) for node in member.view.present])

    async def _everywhere(self, flight: _Flight, calls: Sequence[tuple[str, Callable[[], Awaitable[None]]]]) -> None:
        """Make all calls, again until each has succeeded. Raises what one of them refused, or WrongEpoch."""
        member = self._member
        left = list(calls)
        while left:
            answers = await member.runtime.together([call() for _, call in left])
            if member.view.epoch != flight.epoch:
                raise WrongEpoch(member.view)
            refused: BaseException | None = None
            again: list[tuple[str, Callable[[], Awaitable[None]]]] = []
            for (node, call), answer in zip(left, answers, strict=True):
                if isinstance(answer, WrongEpoch) and answer.view.epoch > flight.epoch:
                    member.enter(answer.view)
                    raise WrongEpoch(member.view)
                if isinstance(answer, (Unreachable, WrongEpoch, NotServing)):
                    again.append((node, call))
                elif isinstance(answer, BaseException):
                    refused = answer
            if refused is not None:
                raise refused
            left = again
            if left:
                await member.report([node for node, _ in left])
                self._admit(flight.epoch)
                await member.runtime.sleep(_AGAIN_SECONDS)

    async def _let_go(self, flight: _Flight) -> None:
        """Release the chunks of the frames that were replaced. What cannot be reached is swept later."""
        changes = flight.changes
        gone = [(key, changes.before[key]) for key in changes.records if key in changes.before]
        for key, before in gone:
            if before.kind != Kind.SPREAD:
                continue
            await self.release(self._member.holders(before), [(key, before.rank)])

    async def release(self, nodes: Iterable[str], holds: Sequence[tuple[str, int]]) -> None:
        """Have `nodes` let go of the chunks they hold for frames of (key, rank). Best effort."""
        member = self._member
        keys = tuple(hold_key(key, rank) for key, rank in holds)
        epoch = member.view.epoch
        present = [node for node in sorted(nodes) if node in member.view.present]
        if keys and present:
            await member.runtime.together([member.at(node).release(epoch, keys) for node in present])


def unavailable(key: str, view: View) -> NodeUnavailable:
    """Return the error for a key all of whose homes have been down at once."""
    down = [name for name in view.base_homes(key) if name not in view.live]
    return NodeUnavailable(
        f"{key!r} is on {' and '.join(view.base_homes(key))}; down: {', '.join(down)}",
        hint="start them again; what they have is served when all are back",
    )


def chunk_nodes(view: View, record: Record) -> set[str]:
    """Return the nodes that should hold chunks of the frame `record`."""
    manifest = Manifest.decode(record.payload)
    return {
        node
        for chunk_id, assigned in zip(manifest.chunk_ids, manifest.chunk_homes, strict=True)
        for node in view.chunk_homes(chunk_id, assigned)
    }
