"""`check` over many nodes: each by itself, then every key and chunk has its copies, equal and where they belong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.errors import Eau2Error
from eau2.store.nodes import Fault, Kind, NodeCheck
from eau2.values.key import MARK, hold_key
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.cluster.view import View
    from eau2.cluster.whole import Whole
    from eau2.store.nodes import Record, Replica

_PAGE = 1000


def audit(whole: Whole) -> NodeCheck:
    """Return what is wrong with the nodes of `whole`, and between them. Reads everything."""
    view = whole.view
    checks = {name: whole.nodes[name].check() for name in view.present}
    faults = [
        Fault(f"{name}: {fault.what}", fault.key, fault.chunk, fault.file)
        for name, check in checks.items()
        for fault in check.faults
    ]
    keys: set[str] = set()
    for name in view.live:
        for key in _user_keys(whole.nodes[name]):
            if key not in keys and view.homes(key)[:1] == (name,):
                keys.add(key)
                faults += _key_faults(whole, view, name, key)
    return NodeCheck(
        len(keys),
        len({chunk for name in view.present for chunk in whole.nodes[name].chunk_sizes()}),
        sum(check.bytes for check in checks.values()),
        tuple(faults),
    )


def _user_keys(node: Replica) -> Iterator[str]:
    after = ""
    while rows := node.listing(after, _PAGE):
        yield from (key for key, _, kind in rows if kind != Kind.DELETED and not key.startswith(MARK))
        after = rows[-1][0]


def _key_faults(whole: Whole, view: View, first: str, key: str) -> list[Fault]:
    record = _record(whole, first, key)
    if record is None:
        return []
    faults: list[Fault] = []
    for name in view.homes(key)[1:]:
        other = _record(whole, name, key)
        if other is None or other.rank < record.rank:
            faults.append(Fault(f"{name} has not the version that {first} has", key=key))
        elif other != record:
            faults.append(Fault(f"{name} and {first} differ", key=key))
    if faults and _record(whole, first, key) != record:  # written meanwhile
        return []
    if record.kind == Kind.SPREAD:
        faults += _chunk_faults(whole, view, record)
    return faults


def _chunk_faults(whole: Whole, view: View, record: Record) -> list[Fault]:
    faults = []
    manifest = Manifest.decode(record.payload)
    held = {name: _held(whole, name, record) for name in view.live}
    for chunk_id, assigned in zip(manifest.chunk_ids, manifest.chunk_homes, strict=True):
        faults += [
            Fault(f"{name} is to have a copy of a chunk, and has none", record.key, chunk_id)
            for name in view.chunk_homes(chunk_id, assigned)
            if chunk_id not in held[name]
        ]
    found = _record(whole, view.homes(record.key)[0], record.key)
    return faults if found == record else []


def _held(whole: Whole, name: str, record: Record) -> set[str]:
    hold = _record(whole, name, hold_key(record.key, record.rank))
    return set() if hold is None or hold.kind != Kind.HOLD else set(hold.payload.decode().split("\n"))


def _record(whole: Whole, name: str, key: str) -> Record | None:
    try:
        found: Record | None = whole.nodes[name].records([key]).get(key)
    except Eau2Error:  # the node's own check has said it
        return None
    return found
