"""What members of a cluster ask of each other, and of their coordinator. How it travels is `runtime.py`'s.

Everything here may be sent: names, numbers, bytes and tuples of them. Every request carries the epoch of the view it
was made in; a member of another epoch refuses it with WrongEpoch. A request may arrive late, twice, or not at all, and
its answer may be lost: each is safe to send again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from eau2.errors import OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eau2.cluster.view import View
    from eau2.errors import Eau2Error
    from eau2.store.nodes import Entry, Record, Write


BYTES_PER_SECOND = 10e6  # the slowest way that values, chunks and orders may take


class WrongEpoch(Exception):
    """The request is of another epoch than the member's, whose view this carries."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.view = view

    def __str__(self) -> str:
        return f"the member is in epoch {self.view.epoch}"


class NotServing(Exception):
    """The member cannot answer now: its lease is over, it is not up to date yet, or it is no home of the key."""


class Unreachable(Exception):
    """No answer came in time. What was asked may or may not have been done."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} does not answer"


class DecisionForgotten(OutcomeUnknown):
    """A batch was decided so long ago that it is forgotten how: all have done what was decided."""


class Request(NamedTuple):
    """Who asks for a write: the same when it is sent again, so that it is done once."""

    client: str
    number: int
    epoch: int  # in which it may have been done first


Outcomes = tuple[Request, tuple[str, ...], "tuple[int | Eau2Error, ...]"]  # of a request: its keys, what each came to
Done = tuple[Outcomes, ...]


class Unsettled(NamedTuple):
    """What a member may have of writes that were not finished when its epoch ended, for the one who orders them now."""

    records: tuple[Record, ...]
    late: Done  # what requests come to if those records are adopted
    done: Done  # what requests came to that every writer has done
    since: int  # the epoch of which, and of those before, the member has forgotten requests
    forgot: bool  # it is live as before it was started anew: what it has may be unsettled, and it cannot tell
    batches: tuple[tuple[str, tuple[str, ...]], ...]  # that may not be done everywhere: where that is decided, and keys


class Batch(NamedTuple):
    """What one `Peer.replicate` brought."""

    number: int
    records: tuple[Record, ...]
    done: Done


NO_BATCH = Batch(0, (), ())


class Peer(Protocol):
    """A member of the cluster, as the others and the clients see it."""

    async def get(
        self, epoch: int, keys: Sequence[str], *, deleted: bool = False, again: bool = False
    ) -> list[Entry | None]:
        """Return what is under `keys`, of which the member is the first home: one snapshot. Versions without epoch.

        `deleted`: for a key that was deleted, an entry of that kind with the version of its deletion. `again`: it is a
        second look, which is not counted.
        """

    async def names(self, epoch: int, prefix: str, limit: int | None, *, frames: bool) -> list[str]:
        """Return those keys with `prefix`, sorted, that have a value and the member as first home."""

    async def write(self, epoch: int, request: Request, writes: Sequence[Write]) -> list[int | Eau2Error]:
        """Apply `writes`, whose first home the member is; return when every writer of each key has them.

        A frame comes as Kind.SPREAD with every copy of its chunks, each staged on its node. What is raised changed
        nothing.
        """

    async def hold(self, epoch: int, record: Record) -> None:
        """Publish staged chunks under a HOLD. The frame that names them is committed after this."""

    async def release(self, epoch: int, hold_keys: Sequence[str]) -> None:
        """Forget holds of frames that are not there any more."""

    async def replicate(self, epoch: int, sender: str, number: int, records: Sequence[Record], done: Done) -> None:
        """Have `records`, which `sender` orders, and know what its requests come to. Durable when it returns."""

    async def revoke(self, epoch: int, sender: str, number: int, before: Sequence[Record]) -> None:
        """Undo batch `number` of `sender`, also when it comes late: have `before`, what was under its keys (rank 0:
        nothing)."""

    async def collect(self, view: View, by: str) -> Unsettled:
        """Enter `view` if it is newer; return what is unsettled of the keys that `by` orders in it."""

    async def reserve(
        self, epoch: int, batch: str, writes: Sequence[Write]
    ) -> tuple[list[int | Eau2Error], tuple[Record, ...]]:
        """First half of a write of keys with several first homes: say what these would come to, and the records that
        do them. Nobody reads these keys, or writes any, until `finish`, or until the batch is known to be
        undone."""

    async def finish(self, epoch: int, batch: str, *, decided: bool, again: bool = False) -> None:
        """Second half: do what was reserved, or let go of it. `again`: but not of the chunks of its frames, as the same
        is tried once more; repair lets go of them later."""

    async def listing(self, epoch: int, first: str, after: str, limit: int) -> list[tuple[str, int, int]]:
        """Return (key, rank, kind) of at most `limit` keys above `after` that the member has, in their order, whose
        first home is `first`; deleted ones too. Less than `limit` when there are no more. Holds come under the key of
        their frame."""

    async def records(self, epoch: int, keys: Sequence[str]) -> list[Record]:
        """Return what the member has under those of `keys` that it knows, in their order, and as much of it as may be
        in one answer, at least one: what follows the last is asked again. See `every_record`."""

    async def chunk(self, epoch: int, chunk_id: str) -> bytes:
        """Return the bytes of a chunk that the member holds. FileNotFoundError, Corrupt."""

    async def copy(self, epoch: int, hold: Record, sources: Sequence[tuple[str, tuple[str, ...]]]) -> int:
        """Have `hold`; fetch each (chunk, nodes that have it) that is not here. Return the bytes that were moved."""

    async def mend(self, epoch: int, chunk_id: str, nodes: Sequence[str]) -> int:
        """Replace the member's copy of a chunk, damaged or missing, by that of one of `nodes`. Return the bytes that
        were moved. FileNotFoundError when none of these has it whole."""


async def every_record(peer: Peer, epoch: int, keys: Sequence[str]) -> AsyncIterator[list[Record]]:
    """Yield what `peer` has under those of `keys` that it knows, as it is answered."""
    left = list(keys)
    while left and (records := await peer.records(epoch, left)):
        yield records
        left = left[left.index(records[-1].key) + 1 :]


class Coordination(Protocol):
    """The coordinator, as members and clients see it."""

    async def renew(self, name: str, incarnation: str, epoch: int, *, whole: bool) -> View:
        """Extend the lease of member `name`, which is in `epoch`; return the view there is now.

        `incarnation` differs each time the member is started; `epoch` is 0 as long as it is that in which it was.
        `whole`: as of `epoch`, a member that joins has all that it will be a home of, and a live one has seen that all
        keys that it orders have all their copies.
        """

    async def suspect(self, name: str) -> View:
        """Somebody got no answer from `name`. Return the view there is now."""

    async def view(self) -> View: ...
