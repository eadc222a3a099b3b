"""From entries to values while others write: a frame may be replaced before its chunks are mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, cast

from eau2.errors import Corrupt, NodeUnavailable, StoreBusy
from eau2.store.expiry import bytes_of
from eau2.store.nodes import Kind

if TYPE_CHECKING:
    from eau2.frame.frame import Frame
    from eau2.store.nodes import Entry, Node
    from eau2.store.tables import Tables

_BYTES, _EXPIRING = int(Kind.BYTES), int(Kind.EXPIRING)
_TRIES_MAX = 100  # each try means that another process wrote meanwhile


def look_up(node: Node, tables: Tables, key: str, entry: Entry | None) -> bytes | Frame | None:
    """Return what is under `key`, which was `entry` a moment ago; None when nothing is.

    A chunk that is gone means that the frame was replaced or deleted since: what is there now is taken instead. Corrupt
    when it was not.
    """
    for _ in range(_TRIES_MAX):
        if entry is None:
            return None
        try:
            if entry.kind in (_BYTES, _EXPIRING):
                return bytes_of(entry)
            return tables.frame(node, key, entry)
        except (FileNotFoundError, NodeUnavailable) as error:  # a node that is down may have it, or nobody
            again = node.get(key)
            if again is not None and again.version == entry.version:
                _refuse(key, error)
            entry = again
    raise StoreBusy(f"{key!r} was replaced {_TRIES_MAX} times while it was opened", hint="try again")


def look_up_many(node: Node, tables: Tables, keys: list[str]) -> dict[str, bytes | Frame]:
    """Return what is under those of `keys` that have a value, all of one moment: when a chunk is gone, all are read
    again."""
    if node.here is not None and (plain := node.here.plain(keys)) is not None:
        return cast("dict[str, bytes | Frame]", plain)
    gone: dict[str, int] = {}  # frames of which a chunk was gone, with their version
    for _ in range(_TRIES_MAX):
        entries = node.get_many(keys)
        found: dict[str, bytes | Frame] = {
            key: payload for key, (_, kind, payload) in entries.items() if kind == _BYTES
        }
        if len(found) == len(entries):
            return found
        for key, entry in entries.items():
            if entry.kind == _BYTES:
                continue
            if entry.kind == _EXPIRING:
                found[key] = bytes_of(entry)
                continue
            try:
                found[key] = tables.frame(node, key, entry)
            except (FileNotFoundError, NodeUnavailable) as error:
                if gone.get(key) == entry.version:
                    _refuse(key, error)
                gone[key] = entry.version
                break
        else:
            return {key: found[key] for key in entries}
    raise StoreBusy(f"frames were replaced {_TRIES_MAX} times while they were opened", hint="try again")


def _refuse(key: str, error: FileNotFoundError | NodeUnavailable) -> NoReturn:
    if isinstance(error, NodeUnavailable):
        raise error
    raise Corrupt(
        f"{key!r}: the chunk file {error.filename} is missing", hint="run `eau2 check`, and put the frame again"
    ) from error
