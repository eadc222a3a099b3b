"""The beginning of an epoch: what may be half done of those before is learned from all members, and done everywhere.

First the decisions of batches, then the keys. Whether a batch is to be done is asked of the member that orders its
decision, once that has settled it: a copy of a decision may be of one that never came to be.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from eau2.cluster.keys import DECISION, decode_records
from eau2.cluster.peer import NotServing, Unreachable, Unsettled, WrongEpoch, every_record
from eau2.store.nodes import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eau2.cluster.member import Member
    from eau2.cluster.order import Order
    from eau2.cluster.peer import Outcomes
    from eau2.cluster.view import View
    from eau2.store.nodes import Record

_PAGE = 1000

Key = TypeVar("Key")
Value = TypeVar("Value")


async def settle(member: Member, view: View) -> None:
    """Settle the epoch of `view` for the keys that `member` orders in it. NotServing when somebody does not answer."""
    said = await _collect(member, view)
    found = list(said.values())
    # Who fell is not asked what was done as long as others know; else one that returns at once would make it unknown.
    counted = [each.since for name, each in said.items() if view.may_lose or name not in view.fell]
    member.sure_from = 1 + max(counted, default=0)
    adopted: dict[str, Record] = {}
    for each in found:
        member.remember(each.done)
        _take_later(member, each.records, adopted)
    forgot = any(each.forgot for each in found)
    if forgot or view.may_lose:
        for name in (live for live in view.live if live != member.name):
            await _take_contested(member, view, name, adopted, everything=forgot)
    late = {request: (keys, outcomes) for each in found for request, keys, outcomes in each.late}
    done = [(request, *known) for request, known in late.items()]
    decisions = {key: record for key, record in adopted.items() if key.startswith(DECISION)}
    await _adopt(member.decisions, view, decisions.values(), done)
    member.remember([one for one in done if one[1][0].startswith(DECISION)])
    member.settled_decisions(view)
    records = {key: record for key, record in adopted.items() if key not in decisions}
    for payload in await _decided(member, view, found):
        ours = [record for record in decode_records(payload) if member.orders(view, record.key)]
        _take_later(member, ours, records)
    await _adopt(member.order, view, records.values(), done)
    member.remember(done)
    member.settled(view)


def items_now(known: Mapping[Key, Value]) -> list[tuple[Key, Value]]:
    """As list(known.items()), also while other threads change `known`: between the tuples which that makes, garbage may
    be collected, and others run then."""
    return [(key, value) for key in list(known) if (value := known.get(key)) is not None]


def _others(member: Member, view: View) -> list[str]:
    return [name for name in view.present if name != member.name]


async def _collect(member: Member, view: View) -> dict[str, Unsettled]:
    others = _others(member, view)
    answers = await member.runtime.together([member.at(name).collect(view, member.name) for name in others])
    found = {member.name: await member.collect(view, member.name)}
    for name, answer in zip(others, answers, strict=True):
        if isinstance(answer, Unsettled):
            found[name] = answer
            continue
        if isinstance(answer, WrongEpoch):
            member.enter(answer.view)
        elif isinstance(answer, Unreachable):
            await member.report([name])
        elif not isinstance(answer, NotServing):
            raise answer
        raise NotServing
    return found


def _take_later(member: Member, records: Iterable[Record], adopted: dict[str, Record]) -> None:
    """Put into `adopted` what is later than what is there and here."""
    candidates = [record for record in records if record.key not in adopted or adopted[record.key].rank < record.rank]
    here = member.node.records([record.key for record in candidates])
    for record in candidates:
        known = adopted.get(record.key) or here.get(record.key)
        if known is None or known.rank < record.rank or (record.key not in adopted and known.rank == record.rank):
            adopted[record.key] = record


async def _take_contested(
    member: Member, view: View, name: str, adopted: dict[str, Record], *, everything: bool
) -> None:
    """All who could know the last write of some keys fell, and are back: the highest rank of all is the last."""
    after = ""
    while True:
        rows = await member.at(name).listing(view.epoch, member.name, after, _PAGE)
        keys = [key for key, _, kind in rows if kind != Kind.HOLD and (everything or view.is_contested(key))]
        async for records in every_record(member.at(name), view.epoch, keys):
            _take_later(member, records, adopted)
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]


async def _decided(member: Member, view: View, found: Sequence[Unsettled]) -> list[bytes]:
    """Return what was decided in batches of before that concern keys of `member`. Keys are in doubt as long as those
    who know a decision are down."""
    by_home: dict[str, dict[str, None]] = defaultdict(dict)
    in_doubt: set[str] = set()
    for decision, keys in {batch: None for each in found for batch in each.batches}:
        ours = [key for key in keys if member.orders(view, key)]
        if view.is_lost(decision):
            in_doubt.update(ours)
        elif ours:
            by_home[view.homes(decision)[0]][decision] = None
    member.in_doubt = frozenset(in_doubt)
    homes = list(by_home)
    answers = await member.runtime.together([member.at(home).get(view.epoch, tuple(by_home[home])) for home in homes])
    payloads: list[bytes] = []
    for home, answer in zip(homes, answers, strict=True):
        if isinstance(answer, Unreachable):
            await member.report([home])
            raise NotServing
        if isinstance(answer, BaseException):
            raise answer
        payloads += [entry.payload for entry in answer if entry is not None]
    return payloads


async def _adopt(order: Order, view: View, records: Iterable[Record], done: Iterable[Outcomes]) -> None:
    left = list(records)
    for start in range(0, len(left), _PAGE):
        page = left[start : start + _PAGE]
        written = {record.key for record in page}
        whole = tuple(one for one in done if written.issuperset(one[1]))
        await order.adopt(view, page, whole, short_of_room=True)
