"""Who is a home of what, by hashing alone: the same on every machine that knows the same names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SLOTS = 1 << 16
_MASK = (1 << 64) - 1


def slot_of(key: str) -> int:
    """Return the slot of `key`: keys of one slot have the same homes. A hold has the slot of the key it holds."""
    if key.startswith("\x00h"):
        key = key[2:-17]
    return xxhash.xxh3_64_intdigest(key.encode()) % SLOTS


class Placement:
    """The homes of keys and chunks over one set of live nodes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(sorted(names, key=_natural))
        self._hashes = {name: xxhash.xxh3_64_intdigest(name.encode()) for name in self.names}
        self._orders: dict[int, tuple[str, ...]] = {}
        self._positions = {name: position for position, name in enumerate(self.names)}

    def homes_of_key(self, key: str, count: int) -> tuple[str, ...]:
        slot = slot_of(key)
        order = self._orders.get(slot)
        if order is None:
            order = self._orders[slot] = self._order(_mix(slot + 1))
        return order[:count]

    def homes_of_chunk(self, chunk_id: str, assigned: Sequence[str], count: int) -> tuple[str, ...]:
        live = [name for name in assigned if name in self._positions]
        if len(live) < count:
            live += self._order(xxhash.xxh3_64_intdigest(chunk_id.encode()))
        return tuple(dict.fromkeys(live))[:count]

    def homes_of_chunks(
        self, chunk_ids: Sequence[str], assigned: Iterable[Sequence[str]], count: int
    ) -> list[tuple[str, ...]]:
        return [self.homes_of_chunk(one, homes, count) for one, homes in zip(chunk_ids, assigned, strict=True)]

    def round_the_ring(self, first: str, index: int, count: int) -> tuple[str, ...]:
        start = self._positions[first] + index
        return tuple(self.names[(start + step) % len(self.names)] for step in range(min(count, len(self.names))))

    def _order(self, subject: int) -> tuple[str, ...]:
        return tuple(sorted(self.names, key=lambda name: _mix(subject ^ self._hashes[name]), reverse=True))


def _mix(value: int) -> int:
    """The finalizer of splitmix64."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    return tuple((text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name))
