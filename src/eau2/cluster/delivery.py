"""What a member has ordered, on its way to the others: published, copied, revoked, let go."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from eau2.cluster.peer import NotServing, Unreachable, WrongEpoch
from eau2.errors import DiskFull, NodeUnavailable
from eau2.store.nodes import Kind, Record
from eau2.values.key import held_key, hold_key
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from eau2.cluster.member import Member
    from eau2.cluster.peer import Done
    from eau2.cluster.view import View
    from eau2.store.nodes import Staged

    _Call = tuple[str, Callable[[], Awaitable[None]]]  # the node, and what it is to do

_AGAIN_SECONDS = 0.02  # between tries to reach a writer that does not answer


@dataclass(slots=True)
class Changes:
    """What a batch comes to."""

    records: dict[str, Record] = field(default_factory=dict)
    before: dict[str, Record] = field(default_factory=dict)
    chunks: dict[str, tuple[Staged, ...]] = field(default_factory=dict)  # of frames, by key
    holds: tuple[str, ...] = ()  # that who was cut short may have left, on any node


NOTHING = Changes()


@dataclass(slots=True)
class Flight:
    """A batch that others may have and that is not done here."""

    epoch: int
    number: int
    changes: Changes
    short: bool = False  # a chunk of it is not on all nodes that are to have it


class Delivery:
    """Has other members do what `member` orders. `sender` and a number name each batch; `admit` raises when the member
    serves no more."""

    def __init__(self, member: Member, sender: str, admit: Callable[[int], None]) -> None:
        self._member = member
        self._sender = sender
        self._admit = admit

    async def publish(self, flight: Flight) -> None:
        """Have the chunks of frames held where they are staged: before anything names them. Notes where that is not
        everywhere they are to be."""
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
            flight.short = flight.short or _is_short(self._member.view, record, staged)
        member = self._member
        calls = [(node, partial(member.at(node).hold, flight.epoch, hold)) for node, hold in holds]
        try:
            await self._everywhere(flight, calls)
        except FileNotFoundError as error:  # swept: whoever staged it, or the node itself, was started anew since
            raise NodeUnavailable(
                f"chunk {error.filename} is not staged any more", hint="put the frame again"
            ) from None

    async def replicate(self, flight: Flight, done: Done) -> None:
        """Have every other writer have the records of `flight`."""
        await self._everywhere(flight, self._copying(flight, done, self._by_writer(flight.changes.records)))

    async def adopt(self, sure: Flight, flight: Flight, done: Done, *, short_of_room: bool) -> None:
        """Have those who are relied on have the records of `sure`, then the other writers those of `flight`, which are
        the same; with `short_of_room` as far as there is room: of what they lack repair makes copies later, as of all
        they lack."""
        view = self._member.view
        relied: dict[str, list[Record]] = defaultdict(list)
        others: dict[str, list[Record]] = defaultdict(list)
        for node, records in self._by_writer(flight.changes.records).items():
            for record in records:
                (relied if view.relies_on(node, record.key) else others)[node].append(record)
        await self._everywhere(sure, self._copying(sure, done, relied))
        await self._everywhere(flight, self._copying(flight, done, others), short_of_room=short_of_room)

    def _copying(self, flight: Flight, done: Done, parts: Mapping[str, Sequence[Record]]) -> list[_Call]:
        changed = flight.changes.records
        calls: list[_Call] = []
        for node, records in parts.items():
            theirs = {record.key for record in records}
            # What a request comes to is of no use without what it wrote: whoever has one of them has the other.
            of_theirs = tuple(one for one in done if all(key in theirs or key not in changed for key in one[1]))
            send = self._member.at(node).replicate
            calls.append((node, partial(send, flight.epoch, self._sender, flight.number, tuple(records), of_theirs)))
        return calls

    def _by_writer(self, records: Mapping[str, Record]) -> dict[str, list[Record]]:
        parts: dict[str, list[Record]] = defaultdict(list)
        for record in records.values():
            for node in self._member.view.writers(record.key):
                if node != self._member.name:
                    parts[node].append(record)
        return parts

    async def revoke(self, flight: Flight, *, again: bool = False) -> None:
        """Undo `flight`: have all its writers have what is here, and let go of the chunks of its frames, unless they
        are wanted `again`."""
        changed = flight.changes.records
        here = self._member.node.records(list(changed))
        parts = self._by_writer({key: here.get(key, Record(key, 0, Kind.DELETED)) for key in changed})
        member = self._member
        calls = [
            (node, partial(member.at(node).revoke, flight.epoch, self._sender, flight.number, tuple(before)))
            for node, before in parts.items()
        ]
        await self._everywhere(flight, calls)
        if again:
            return
        unused = [
            (key, changed[key].rank)
            for key in flight.changes.chunks
            if changed[key].kind == Kind.SPREAD and (key not in here or here[key].rank != changed[key].rank)
        ]
        nodes = {copy.node for key, _ in unused for copy in flight.changes.chunks[key]}
        await self.release(nodes, unused)
        await self._release_left(flight.changes.holds)

    async def let_go(self, flight: Flight) -> None:
        """Release the chunks of the frames that were replaced. What cannot be reached is swept later."""
        changes = flight.changes
        gone = [(key, changes.before[key]) for key in changes.records if key in changes.before]
        for key, before in gone:
            if before.kind != Kind.SPREAD:
                continue
            await self.release(chunk_nodes(self._member.view, before), [(key, before.rank)])

    async def release(self, nodes: Iterable[str], holds: Sequence[tuple[str, int]]) -> None:
        """Have `nodes` let go of the chunks they hold for frames of (key, rank). Best effort."""
        member = self._member
        keys = tuple(hold_key(key, rank) for key, rank in holds)
        epoch = member.view.epoch
        present = [node for node in sorted(nodes) if node in member.view.present]
        if keys and present:
            await member.runtime.together([member.at(node).release(epoch, keys) for node in present])

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

    async def _everywhere(self, flight: Flight, calls: Sequence[_Call], *, short_of_room: bool = False) -> None:
        """Make all calls, again until each has succeeded, or met a full disk where that may be (`short_of_room`).
        Raises what one of them refused, or WrongEpoch."""
        member = self._member
        left = list(calls)
        while left:
            answers = await member.runtime.together([call() for _, call in left])
            if member.view.epoch != flight.epoch:
                raise WrongEpoch(member.view)
            refused: BaseException | None = None
            again: list[_Call] = []
            for (node, call), answer in zip(left, answers, strict=True):
                if isinstance(answer, WrongEpoch) and answer.view.epoch > flight.epoch:
                    member.enter(answer.view)
                    raise WrongEpoch(member.view)
                if isinstance(answer, (Unreachable, WrongEpoch, NotServing)):
                    again.append((node, call))
                elif isinstance(answer, BaseException) and not (short_of_room and isinstance(answer, DiskFull)):
                    refused = answer
            if refused is not None:
                raise refused
            left = again
            if left:
                await member.report([node for node, _ in left])
                self._admit(flight.epoch)
                await member.runtime.sleep(_AGAIN_SECONDS)


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
        for node in view.chunk_keepers(chunk_id, assigned)
    }


def _is_short(view: View, record: Record, staged: Iterable[Staged]) -> bool:
    """Whether a chunk of the frame `record` is not staged on all that are to have it. 40 us, and 2 a chunk."""
    there = {(copy.id, copy.node) for copy in staged}
    manifest = Manifest.decode(record.payload)
    return any(
        (chunk_id, node) not in there
        for chunk_id, assigned in zip(manifest.chunk_ids, manifest.chunk_homes, strict=True)
        for node in view.chunk_keepers(chunk_id, assigned)
    )
