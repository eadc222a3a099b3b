"""Whoever reads and writes: finds the home of each key, asks again when a member fails, and joins the answers."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from eau2.cluster.delivery import unavailable
from eau2.cluster.keys import DECISION, encode_records
from eau2.cluster.peer import NotServing, Request, Unreachable, WrongEpoch
from eau2.errors import Eau2Error, KeyExists, NodeUnavailable, OutcomeUnknown
from eau2.store.nodes import Entry, Expect, Kind, Write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eau2.cluster.runtime import Runtime
    from eau2.cluster.view import View
    from eau2.store.nodes import Record

ANSWER_SECONDS = 10.0  # how long a client asks before it gives up
_AGAIN_SECONDS = 0.001  # after the first answer that was none; twice as long each time
_AGAIN_SECONDS_MAX = 0.1
_TRIES_LONG = 3  # times as long, where every try is answered and comes to nothing
_SNAPSHOTS_MAX = 5  # tries to see several nodes at one moment, before writers are held up for it

Answer = TypeVar("Answer")
Outcome = int | Eau2Error


class Client:
    """Reads and writes keys on all members. Several coroutines or threads may call it.

    Raises NodeUnavailable when a key's homes are down, or do not answer for `answer_seconds`; a write raises
    OutcomeUnknown when it may have been done.
    """

    def __init__(self, name: str, runtime: Runtime, view: View, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.name = name
        self.view = view
        self._runtime = runtime
        self._answer_seconds = answer_seconds
        self._numbers = itertools.count()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return what is under those of `keys` that have a value, in their order, all of one moment."""
        found = await self._asking(_doing("get", keys), lambda view: self._get(view, keys))
        return {key: found[key] for key in keys if (entry := found.get(key)) is not None and entry.kind != Kind.DELETED}

    async def _get(self, view: View, keys: Sequence[str], *, again: bool = False) -> dict[str, Entry]:
        parts = self._by_home(view, keys)
        if len(parts) == 1:
            return await self._look(view, parts, again=again)
        before = await self._look(view, parts, deleted=True, again=again)
        for _ in range(_SNAPSHOTS_MAX):
            after = await self._look(view, parts, deleted=True, again=True)
            if {key: entry[0] for key, entry in before.items()} == {key: entry[0] for key, entry in after.items()}:
                return after  # nothing changed between the two looks, so all of it was there at once between them
            before = after
        batch = self._batch()
        try:
            for home in sorted(parts):
                await self._runtime.peer(home).reserve(view.epoch, batch, ())
            return await self._look(view, parts, again=True)
        finally:
            await self._let_go(view, batch, sorted(parts))

    async def _look(
        self, view: View, parts: dict[str, list[str]], *, deleted: bool = False, again: bool = False
    ) -> dict[str, Entry]:
        homes = list(parts)
        answers = await self._runtime.together(
            [self._runtime.peer(home).get(view.epoch, parts[home], deleted=deleted, again=again) for home in homes]
        )
        found: dict[str, Entry] = {}
        for home, answer in zip(homes, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found.update((key, entry) for key, entry in zip(parts[home], answer, strict=True) if entry is not None)
        return found

    async def names(self, prefix: str = "", limit: int | None = None, *, frames: bool = False) -> list[str]:
        """Return the keys with `prefix` that have a value, sorted; only those of frames if asked for."""
        return await self._asking("list", lambda view: self._names(view, prefix, limit, frames))

    async def _names(self, view: View, prefix: str, limit: int | None, frames: bool) -> list[str]:
        if not view.live:
            raise NotServing
        answers = await self._runtime.together(
            [self._runtime.peer(name).names(view.epoch, prefix, limit, frames=frames) for name in view.live]
        )
        found: list[str] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found += answer
        return sorted(found)[:limit]

    # -- writing ------------------------------------------------------------------------------------------------------

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply `writes`; return for each its version, 0, or why it was refused. Those not refused: all or none."""
        keys = [write.key for write in writes]
        deadline = self._runtime.now() + _TRIES_LONG * self._answer_seconds
        while True:
            if _are_one(self.view, keys):
                found = await self._write_at_one(writes)
            else:
                found = await self._write_at_many(writes)
            if found is not None:
                return found
            if self._runtime.now() >= deadline:  # such as where all of it takes longer to be sent than it is waited for
                raise NodeUnavailable(f"{_doing('write', keys)}: it came to nothing again and again; try fewer at once")

    async def _write_at_one(self, writes: Sequence[Write]) -> list[Outcome] | None:
        """Write what the same members have all of. None when, in the view there is now, they are not the same."""
        keys = [write.key for write in writes]
        number = next(self._numbers)
        sent: Request | None = None

        async def ask(view: View) -> list[Outcome] | None:
            nonlocal sent
            if not _are_one(view, keys):
                if sent is not None:
                    raise OutcomeUnknown("write: those who would know whether it was done have other keys now")
                return None
            (home,) = self._by_home(view, keys)
            sent = sent or Request(self.name, number, view.epoch)  # it may arrive twice, and one be done
            return await self._runtime.peer(home).write(view.epoch, sent, writes)

        return await self._asking(_doing("write", keys), ask, unknown=lambda: sent is not None)

    async def _write_at_many(self, writes: Sequence[Write]) -> list[Outcome] | None:
        """Write what several members order: all of it or nothing. None when it came to nothing, to try again.

        Each member judges its part and reserves the keys; then one record, under a key of its own, decides; then each
        does its part. Whoever finds a reservation that nobody ends tries to write an empty decision: the first counts.
        """

        async def attempt(view: View) -> list[Outcome] | None:
            return await self._attempt(view, writes, self._batch())

        return await self._asking(_doing("write", [write.key for write in writes]), attempt)

    async def _attempt(self, view: View, writes: Sequence[Write], batch: str) -> list[Outcome] | None:
        keys = [write.key for write in writes]
        if _are_one(view, keys):
            return None
        parts = self._by_home(view, keys)
        homes = sorted(parts)
        outcomes: dict[str, Outcome] = {}
        records: list[Record] = []
        decided: bool | None = False
        again = True
        try:
            for home in homes:
                its = set(parts[home])
                ours = [write for write in writes if write.key in its]
                came_to, changes = await self._runtime.peer(home).reserve(view.epoch, batch, ours)
                _raise_unavailable(came_to)
                outcomes.update(zip((write.key for write in ours), came_to, strict=True))
                records += changes
            decided = None
            try:
                decided = await self.decide(view, batch, encode_records(records))
            except Eau2Error as error:
                raise OutcomeUnknown(f"write: nobody said whether it was decided: {error}") from error
        except (Unreachable, NotServing, WrongEpoch):
            raise
        except BaseException as error:
            again = isinstance(error, NodeUnavailable)  # of another view it may not be true
            raise
        finally:
            if decided is None:  # cut short
                with contextlib.suppress(Eau2Error, Unreachable, NotServing, WrongEpoch):
                    decided = not await self.undo(batch)
            if decided is False:  # what is not known is found out by those who have reserved it
                await self._let_go(view, batch, homes, again=again)
        if not decided:
            return None
        await self._do(view, batch, homes)
        return [outcomes[write.key] for write in writes]

    async def decide(self, view: View, batch: str, records: bytes) -> bool:
        """Write the decision, in the epoch in which the parts were reserved; return whether it stands."""
        write = Write(DECISION + batch, Kind.BYTES, records, expect=Expect.ABSENT)
        request = self._request(view)
        homes = view.homes(write.key)
        deadline, pause = self._runtime.now() + self._answer_seconds, _AGAIN_SECONDS
        while homes:
            try:
                (outcome,) = await self._runtime.peer(homes[0]).write(view.epoch, request, [write])
                if not isinstance(outcome, Eau2Error):
                    return True
                break  # by somebody, maybe by ourselves
            except WrongEpoch as error:
                await self._learn(error.view)
                break
            except Unreachable as error:
                await self._report(error.name)
            except NotServing:
                pass
            if self._runtime.now() >= deadline:
                break
            await self._runtime.sleep(pause)
            pause = min(2 * pause, _AGAIN_SECONDS_MAX)
        return not await self.undo(batch)

    async def undo(self, batch: str) -> bool:
        """Have `batch` decided as undone, unless it is decided already; return whether it is undone.

        DecisionForgotten when it was decided so long ago that it is forgotten how.
        """
        key = DECISION + batch
        while True:
            found = await self._write_at_one([Write(key, Kind.BYTES, b"", expect=Expect.ABSENT)])
            if found is not None and not isinstance(found[0], Eau2Error):
                return True
            if found is not None and isinstance(found[0], Eau2Error) and not isinstance(found[0], KeyExists):
                raise found[0]
            decision = (await self.get([key])).get(key)
            if decision is not None:
                return not decision.payload

    async def _do(self, view: View, batch: str, homes: Sequence[str]) -> None:
        """Have each member do its part of what is decided. A member of a later epoch has, before it serves."""
        deadline, pause = self._runtime.now() + self._answer_seconds, _AGAIN_SECONDS
        left = list(homes)
        while left:
            answers = await self._runtime.together(
                [self._runtime.peer(home).finish(view.epoch, batch, decided=True) for home in left]
            )
            again: list[str] = []
            for home, answer in zip(left, answers, strict=True):
                if isinstance(answer, (WrongEpoch, Unreachable, NotServing)):
                    await self._take_in(answer)
                elif isinstance(answer, BaseException) and not isinstance(answer, Eau2Error):
                    raise answer
                if isinstance(answer, BaseException):
                    again.append(home)
            if again and self.view.epoch > view.epoch:
                return
            if again and self._runtime.now() >= deadline:
                raise OutcomeUnknown(f"a write of several keys is decided, but {', '.join(again)} did not do its part")
            left = again
            if left:
                await self._runtime.sleep(pause)
                pause = min(2 * pause, _AGAIN_SECONDS_MAX)
        with contextlib.suppress(Eau2Error, Unreachable, NotServing, WrongEpoch):
            await self._forget(view, batch)

    async def _forget(self, view: View, batch: str) -> None:
        key = DECISION + batch
        homes = view.homes(key)
        if homes:
            await self._runtime.peer(homes[0]).write(view.epoch, self._request(view), [Write(key, Kind.DELETED)])

    async def _let_go(self, view: View, batch: str, homes: Sequence[str], *, again: bool = False) -> None:
        """Best effort: who does not hear of it finds out."""
        await self._runtime.together(
            [self._runtime.peer(home).finish(view.epoch, batch, decided=False, again=again) for home in homes]
        )

    # -- asking -------------------------------------------------------------------------------------------------------

    async def _asking(
        self, what: str, attempt: Callable[[View], Awaitable[Answer]], *, unknown: Callable[[], bool] = lambda: False
    ) -> Answer:
        """Call `attempt` with the view until it is answered, in the views that come meanwhile. `unknown`: whether an
        attempt that was not answered may have changed something."""
        deadline, pause = self._runtime.now() + self._answer_seconds, _AGAIN_SECONDS
        silent = ""
        while True:
            epoch, before = self.view.epoch, unknown()
            try:
                return await attempt(self.view)
            except (WrongEpoch, NotServing, Unreachable) as error:
                silent = error.name if isinstance(error, Unreachable) else silent
                await self._take_in(error)
            except Eau2Error as error:
                if isinstance(error, NodeUnavailable):  # in a view that may be old
                    await self._refresh()
                    if self.view.epoch > epoch:
                        continue
                if before:  # and this answer is of another attempt
                    raise OutcomeUnknown(f"{what}: nobody said whether it was done, and then: {error}") from error
                raise
            if self._runtime.now() >= deadline:
                who = silent or "no member"
                if unknown():
                    raise OutcomeUnknown(f"{what}: {who} did not say in {self._answer_seconds:g} s whether it was done")
                raise NodeUnavailable(f"{what}: no answer in {self._answer_seconds:g} s from {who}")
            if self.view.epoch == epoch:
                await self._runtime.sleep(pause)
                pause = min(2 * pause, _AGAIN_SECONDS_MAX)

    def _by_home(self, view: View, keys: Sequence[str]) -> dict[str, list[str]]:
        parts: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            homes = view.homes(key)
            if not homes:
                raise NotServing
            if view.may_lose and view.is_lost(key):
                raise unavailable(key, view)
            parts[homes[0]].append(key)
        return parts

    async def _take_in(self, error: WrongEpoch | NotServing | Unreachable) -> None:
        """Learn of the view what can be learnt from not being answered."""
        if isinstance(error, WrongEpoch):
            await self._learn(error.view)
        elif isinstance(error, Unreachable):
            await self._report(error.name)
        else:
            await self._refresh()

    def learn(self, view: View) -> bool:
        """Go by `view` from now on if it is newer; return whether it is."""
        newer = view.epoch > self.view.epoch
        if newer:
            self.view = view
        return newer

    async def _learn(self, view: View) -> None:
        if not self.learn(view) and view.epoch < self.view.epoch:
            await self._refresh()

    async def _refresh(self) -> None:
        with contextlib.suppress(Unreachable):
            self.learn(await self._runtime.coordinator().view())

    async def _report(self, name: str) -> None:
        with contextlib.suppress(Unreachable):
            self.learn(await self._runtime.coordinator().suspect(name))

    def _request(self, view: View) -> Request:
        return Request(self.name, next(self._numbers), view.epoch)

    def _batch(self) -> str:
        return f"{self.name}/{next(self._numbers)}"


def _doing(what: str, keys: Sequence[str]) -> str:
    """Return what is done to `keys`, for an error."""
    return f"{what} {keys[0]!r}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def _raise_unavailable(outcomes: Sequence[Outcome]) -> None:
    """Raise why nobody can say now what is under one of the keys, if so: then none of them is written."""
    for outcome in outcomes:
        if isinstance(outcome, NodeUnavailable):
            raise outcome


def _are_one(view: View, keys: Sequence[str]) -> bool:
    """Whether every member that has, or had, one of `keys` has all: then what it has of a write is all of it."""
    return len(keys) == 1 or len({(view.writers(key), view.base_homes(key)) for key in keys}) == 1
