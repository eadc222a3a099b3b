"""What the coordinator's process does: makes the views, and has nothing on a disk.

Whenever it is started it knows nobody. Nodes announce themselves; it asks them for the views that they have, and goes
on from the latest when all have answered that are live in it: somebody who did not might know of a later one, and have
acknowledged writes in it. Before it grants a lease, all of them are in its first view: then whoever was coordinator
before, and does not know yet that it is not any more, can grant none.

A store is founded when none of the nodes has anything. Its first view is epoch 1; nobody gets a lease in that, so that
what is known of it only in part was never used: the coordinator goes on when all nodes of it have it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eau2.cluster.coordinator import LEASE_SECONDS, Coordinator
from eau2.cluster.epochs import Epochs
from eau2.cluster.peer import Unreachable
from eau2.cluster.view import State, View, first_view
from eau2.errors import Eau2Error, InvalidOption, StoreUnusable
from eau2.remote.identity import Identity, of_another_store
from eau2.remote.loops import LoopThread
from eau2.remote.server import answered, unreachable
from eau2.remote.transport import COORDINATOR, LoopRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from eau2.remote.transport import Answer, Arguments, Transport
    from eau2.store.membership import EpochChange, Member

_logger = logging.getLogger(__name__)
_LOOK_SECONDS = 0.2
_REACH_SECONDS = 2.0  # between two calls of each node: a call costs a millisecond here, and two there
_REACH_AGAIN_SECONDS = 1.0  # where one has not answered
_UNREACHED_SECONDS = 10.0
_STOP_SECONDS = 0.5
_ASKED = frozenset(["renew", "suspect", "view", "announce", "found", "advance", "drain", "status", "members", "epochs"])


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What the coordinator knows. `view`: None as long as it is not ready. `awaited`: nodes that must answer first."""

    store: str
    view: View | None
    awaited: tuple[str, ...]


class CoordinatorServer:
    """The coordinator, from construction to `stop`. `ask` answers others. Thread-safe.

    kept: keeps for the next coordinator why the epochs came, which nothing depends on: given bytes it has them from
    then on, and it returns those it has, None where there are none. It may wait, and raise.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        lease_seconds: float = LEASE_SECONDS,
        kept: Callable[[bytes | None], bytes | None] = lambda data: None,
    ) -> None:
        self._runtime = LoopRuntime(transport)
        self._lease_seconds = lease_seconds
        self._store = ""
        self._coordinator: Coordinator | None = None  # None while it learns
        self._epochs, self._kept = Epochs(), kept
        self._announced: set[str] = set()
        self._founding: tuple[tuple[str, ...], int] | None = None
        self._awaited: tuple[str, ...] = ()
        self._given_up: set[str] = set()  # nodes that never come back, somebody has said
        self._reached: dict[str, float] = {}  # when each node last answered us, or was first heard of
        self._stopped = False
        self._loop = LoopThread("eau2-coordinator")
        self._failure: BaseException | None = None
        self._loop.submit(self._run()).add_done_callback(self._failed)
        self._loop.submit(self._reaching()).add_done_callback(self._failed)
        self._loop.submit(self._keeping()).add_done_callback(self._failed)

    def __repr__(self) -> str:
        return f"<CoordinatorServer {self._store or 'of no store yet'}>"

    def ask(self, method: str, arguments: Arguments) -> Future[Answer]:
        """Have `method` done. Never waits, never raises: the future comes to what was returned, or raised."""
        if self._stopped:
            return unreachable(COORDINATOR)
        given, named = arguments
        return self._loop.submit(answered(self._ask(method, given, named)))

    async def _ask(self, method: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self._failure is not None:
            raise self._failure
        if method not in _ASKED:
            raise AttributeError(f"nobody asks the coordinator for {method}")
        return await getattr(self, method)(*given, **named)

    def stop(self) -> None:
        """End within a second. Idempotent."""
        self._stopped = True
        self._loop.stop(_STOP_SECONDS)

    def _failed(self, future: Future[None]) -> None:
        if not future.cancelled():
            self._failure = future.exception()  # a fault of ours: whoever asks is told

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _ready(self) -> Coordinator:
        if self._coordinator is None:
            raise Unreachable(COORDINATOR)
        return self._coordinator

    async def renew(self, name: str, incarnation: str, epoch: int, *, whole: bool) -> View:
        """As `Coordination.renew`. Who is in a later epoch knows of another coordinator: then this one learns anew."""
        self._announced.add(name)
        coordinator = self._ready()
        if epoch > coordinator.current.epoch:
            self._coordinator = None
            raise Unreachable(COORDINATOR)
        now = self._runtime.now()
        if now - self._reached.setdefault(name, now) > _UNREACHED_SECONDS:
            # It can ask, and not be asked: its link is half cut, or what takes calls to it is frozen. As a member it
            # would hold up every write that it is to have.
            raise Unreachable(COORDINATOR)
        return await coordinator.renew(name, incarnation, epoch, whole=whole)

    async def suspect(self, name: str) -> View:
        return await self._ready().suspect(name)

    async def view(self) -> View:
        return await self._ready().view()

    async def advance(self) -> View:
        """Make a view that is like the one there is, and later."""
        return self._ready().advance()

    async def announce(self, name: str, incarnation: str, store: str, brought: str = "") -> tuple[str, View]:
        """Take node `name` as a member; return the store and the view. `store`: what it has is of; "": it has nothing.
        `brought`: who brought its machine in, if anybody did.

        StoreUnusable when that is another store, or when it had something that counts. Unreachable before it is known
        what there is.
        """
        self._announced.add(name)
        self._reached[name] = self._runtime.now()
        coordinator = self._ready()
        coordinator.brought(name, brought)
        view = coordinator.current
        if store not in ("", self._store):
            raise of_another_store(Identity(name, store), self._store)
        left = view.state(name) == State.LEFT and name in dict(view.members)
        if left and store:
            raise StoreUnusable(
                f"{name!r} has left this store for good",
                hint="what its directory has is not needed: start it with an empty one, as a new node",
            )
        if not store:
            if name in view.base and not left:
                raise StoreUnusable(
                    f"the data directory of {name!r} is empty, and has copies of this store",
                    hint="put back the directory that was there; or, if it is lost, `eau2 drain` the node first",
                )
            if name in view.base:  # given up: it is that until the others have all their copies
                raise Unreachable(COORDINATOR)
            view = (
                coordinator.readmit(name, incarnation)
                if left
                else await coordinator.renew(name, incarnation, 0, whole=False)
            )
        return self._store, view

    async def found(self, names: Sequence[str], replicas: int) -> View:
        """Make the store on the nodes `names`, unless there is one; return its view.

        Unreachable as long as not all have answered: ask again. InvalidOption.
        """
        if self._coordinator is None:
            if not 1 <= replicas <= len(names):
                raise InvalidOption(f"replicas is 1 to {len(names)}, the number of nodes, not {replicas}")
            self._founding = tuple(names), replicas
        return await self.view()

    async def drain(self, name: str) -> View:
        """Have node `name` leave for good; return the view. It has left when the view says so: until then it serves,
        and what it has is copied to others. A node that is dead is not waited for any more, nor for what only it knows.

        Also when this coordinator waits for it to learn what there is. InvalidOption.
        """
        if self._coordinator is None and name in self._awaited:
            self._given_up.add(name)
        return self._ready().drain(name)

    async def status(self) -> ClusterStatus:
        view = None if self._coordinator is None else self._coordinator.current
        return ClusterStatus(self._store, view, self._awaited)

    async def members(self) -> tuple[Member, ...]:
        """As `Store.members`. Unreachable before it is known what there is."""
        return self._ready().members()

    async def epochs(self) -> tuple[EpochChange, ...]:
        """As `Store.epochs`."""
        return self._ready().epochs.changes

    # -- learning what there is ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            found = self._coordinator
            if found is None:
                found = await self._look()
            if found is None:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            self._coordinator, self._awaited = found, ()
            while self._coordinator is found:
                found.tick()
                await asyncio.sleep(self._lease_seconds / 8)

    async def _reaching(self) -> None:
        """See who can be asked."""
        while True:
            asked = set(self._announced)
            answers = await self._meet(asked, "", None)
            for name in answers:
                self._reached[name] = self._runtime.now()
            await asyncio.sleep(_REACH_SECONDS if asked and asked == answers.keys() else _REACH_AGAIN_SECONDS)

    async def _keeping(self) -> None:
        """Have why the epochs came outlive this process."""
        told: EpochChange | None = None
        while True:
            if self._coordinator is not None and (last := self._epochs.changes[-1]) != told:
                document = {"store": self._store, **self._epochs.document()}
                try:
                    await asyncio.to_thread(self._kept, json.dumps(document).encode())
                    told = last
                except Exception:  # of whoever keeps it: again with the next look
                    _logger.exception("why the epochs came is not kept")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _epochs_of(self, store: str) -> Epochs:
        """Return why the epochs of `store` came, as far as we know, or those before us have had it kept."""
        try:
            kept = await asyncio.to_thread(self._kept, None)
            found = json.loads(kept or b"{}")
            if not self._epochs.changes and found.get("store") == store:
                return Epochs.of(found)
        except Exception:  # of whoever keeps it; or it was another version that wrote it
            _logger.exception("why the epochs of before came is not known")
        return Epochs.of(self._epochs.document())  # a copy: the coordinator it is for may come to nothing

    async def _look(self) -> Coordinator | None:
        """Ask all nodes that are heard of what they have; return the coordinator that goes on from there, if all that
        is to be known is known."""
        answers = await self._meet(self._announced.union(*([self._founding[0]] if self._founding else [])), "", None)
        stores: dict[str, dict[str, View]] = {}
        for name, (store, view) in answers.items():
            if view is not None:
                stores.setdefault(store, {})[name] = view
                self._announced.update(view.present)  # asked the next time
        if not stores and await self._found(answers):
            return await self._look()
        for store, views in sorted(stores.items()):
            latest = max(views.values(), key=lambda view: view.epoch)
            missing = set(latest.live) - views.keys() - self._given_up
            if latest.epoch == 1:  # being founded
                await self._meet([name for name in missing if name in answers], store, latest)
            self._awaited = tuple(sorted(missing))
            if not missing:
                return await self._go_on(store, latest)
        return None

    async def _found(self, answers: Mapping[str, object]) -> bool:
        """Begin to make a store, if all that it is to be made of are here, and have nothing; return whether it was
        begun on one of them."""
        if self._founding is None:
            return False
        names, replicas = self._founding
        self._awaited = tuple(sorted(set(names) - answers.keys()))
        return not self._awaited and bool(await self._meet(names, str(uuid.uuid4()), first_view(names, replicas)))

    async def _go_on(self, store: str, latest: View) -> Coordinator | None:
        """Have all that are live in `latest` enter the first view of this coordinator."""
        for name in sorted(self._given_up.intersection(latest.live)):
            latest = latest.having(name, State.LEFT)
        epochs = await self._epochs_of(store)
        coordinator = Coordinator.recovered(self._runtime, [latest], lease_seconds=self._lease_seconds, epochs=epochs)
        first = coordinator.current
        left = set(first.live)
        while left:
            for name, (_, view) in (await self._meet(left, store, first)).items():
                if view is not None and view.epoch > first.epoch:
                    return None
                left.discard(name)
            self._awaited = tuple(sorted(left))
            if left & self._given_up:
                return None
            await asyncio.sleep(_LOOK_SECONDS if left else 0)
        self._store, self._epochs = store, epochs
        return coordinator

    async def _meet(self, names: Sequence[str] | set[str], store: str, view: View | None) -> dict[str, Any]:
        """Return (store, view) of those of `names` that answer."""
        asked = sorted(names)
        peers: list[Any] = [self._runtime.peer(name) for name in asked]
        answers = await self._runtime.together([peer.meet(store, view) for peer in peers])
        found = {}
        for name, answer in zip(asked, answers, strict=True):
            if isinstance(answer, tuple):
                found[name] = answer
            elif not isinstance(answer, (Unreachable, Eau2Error)):  # of another version, maybe: not to be the end of us
                _logger.error("%s does not answer as it should", name, exc_info=answer)
        return found
