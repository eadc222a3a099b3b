"""The keys as a tree: what is directly under a prefix, a page at a time, with sizes as far as they can be had soon."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eau2.errors import InvalidOption
from eau2.ingest.files import is_file
from eau2.store.arguments import checked_prefix
from eau2.store.expiry import bytes_of
from eau2.store.nodes import Kind
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.store.nodes import Entry
    from eau2.store.store import Store

ROWS_MAX = 200  # of one page
SEPARATOR = "/"
SIZES_SECONDS = 0.5  # for the sizes of one page
SIZES_BYTES_MAX = 64 << 20  # of values that are read for that: nodes tell no size without the value
_TOGETHER = 16
_OF_BYTES = (Kind.BYTES, Kind.EXPIRING)


class _Purse:
    """What may be spent on the sizes of one page."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + SIZES_SECONDS
        self._bytes = SIZES_BYTES_MAX

    def spend(self, size: int) -> None:
        self._bytes -= size

    def is_empty(self) -> bool:
        return self._bytes <= 0 or time.monotonic() > self._deadline


@dataclass(slots=True)
class _Group:
    """The keys that share a prefix and a separator after it; or one key."""

    name: str
    keys: list[str]
    is_key: bool


def key_page(store: Store, prefix: str, after: str, limit: int) -> dict[str, Any]:
    """Return what is directly under `prefix`: keys, and prefixes that end in `/` with what is below them. At most
    `limit` of both together, those after the name `after`. 1 us a key under the prefix, and SIZES_SECONDS."""
    keys = store.keys(checked_prefix(prefix))
    groups = _grouped(keys, len(prefix))
    start = next((index for index, group in enumerate(groups) if group.name > after), len(groups)) if after else 0
    shown = groups[start : start + limit]
    more = start + limit < len(groups)
    purse = _Purse()
    leaves = _sized(store, [group.name for group in shown if group.is_key], purse)
    below = {}
    for group in sorted((group for group in shown if not group.is_key), key=lambda group: len(group.keys)):
        below[group.name] = _summed(store, group, purse)  # small ones first: none has spent it all before they come
    rows = [leaves[group.name] if group.is_key else below[group.name] for group in shown]
    return {
        "prefix": prefix,
        "keys": len(keys),
        "rows": rows,
        "copies": copies_of(store, prefix or SEPARATOR),
        "before": start,
        "left": max(0, len(groups) - start - limit),
        "next": shown[-1].name if more and shown else None,
    }


def copies_of(store: Store, key: str) -> int | None:
    """Return how many nodes a key belongs on; None where a server has the nodes, and does not tell."""
    try:
        return len(store.node.assigned(key, 0)) or 1
    except InvalidOption:
        return None


def _grouped(keys: Sequence[str], length: int) -> list[_Group]:
    groups: list[_Group] = []
    for key in keys:
        end = key.find(SEPARATOR, length)
        if end < 0:
            groups.append(_Group(key, [key], is_key=True))
        elif groups and not groups[-1].is_key and groups[-1].name == key[: end + 1]:
            groups[-1].keys.append(key)
        else:
            groups.append(_Group(key[: end + 1], [key], is_key=False))
    return groups


def _summed(store: Store, group: _Group, purse: _Purse) -> dict[str, Any]:
    size, seen = 0, 0
    for start in range(0, len(group.keys), _TOGETHER):
        if purse.is_empty():
            break
        part = group.keys[start : start + _TOGETHER]
        size += sum(row.get("bytes") or 0 for row in _sized(store, part, purse).values())
        seen += len(part)
    is_whole = seen == len(group.keys)
    return {"prefix": group.name, "keys": len(group.keys), "bytes": size if seen else None, "is_whole": is_whole}


def _sized(store: Store, keys: Sequence[str], purse: _Purse) -> dict[str, dict[str, Any]]:
    """Return what is known of each of `keys`; without its size when the purse is empty, or it has just gone."""
    rows: dict[str, dict[str, Any]] = {key: {"key": key, "kind": "", "bytes": None} for key in keys}
    for start in range(0, len(keys), _TOGETHER):
        if purse.is_empty():
            break
        for key, entry in store.node.get_many(keys[start : start + _TOGETHER]).items():
            purse.spend(len(entry.payload))
            rows[key] = {"key": key, "version": entry.version, **_described(entry)}
    return rows


def _described(entry: Entry) -> dict[str, Any]:
    if entry.kind in _OF_BYTES:
        return {"kind": "bytes", "bytes": len(bytes_of(entry))}
    manifest = Manifest.decode(entry.payload)
    kind = "file" if is_file(manifest.schema) else "frame"
    return {"kind": kind, "bytes": manifest.size, "rows": manifest.rows, "chunks": len(manifest.chunk_ids)}
