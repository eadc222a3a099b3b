"""Who is a home of what, by hashing alone: the same on every machine that knows the same names.

Rendezvous order: every pair of a subject (a key's slot, or a chunk) and a name has a weight, which depends on nothing
else; the homes are the names of the highest weights. So when a name leaves, only what it was a home of gets another,
and when it is back, that goes back; a name that joins takes only what it becomes a home of.

Names and chunk ids are hashed by XXH3-64 of their UTF-8, slots by `_mixed`; a weight is `_mixed` of the exclusive or of
both hashes, without its last 16 bits: of equal ones (one in 10**14) the later name comes first.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import numpy as np
from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

# Keys of one slot have the same homes, so that homes are looked up, not computed. Enough slots that of 1,000 nodes none
# is the first home of more than 1.2 times the mean (of 65,536: 1.45), few enough to weigh them all in a second or two.
SLOTS = 1 << 18
NAMES_MAX = 1 << 16  # a name's position takes the last 16 bits of its weight

_HOLD = "\x00h"  # begins the key of a hold: then the key, "\x00", and a rank in 16 hexadecimal digits
_HOLD_END = 17
_WEIGHTS_AT_ONCE = 1 << 16  # with scratch of the same size 1 MB, which stays in the cache
_WEIGHTS_A_BLOCK = 1 << 18  # of slots, and at most _SLOTS_A_BLOCK of those: what a first look-up waits for
_SLOTS_A_BLOCK = 1 << 14
_SORTED_FROM = 8  # homes: from so many on, weights are sorted, not searched for the highest again and again
_FEW = 64  # names: so few have few different tuples of homes, and equal ones are kept once
_POSITION = np.uint64(NAMES_MAX - 1)


def slot_of(key: str) -> int:
    """Return the slot of `key`, from 0 to SLOTS - 1. A hold is in the slot of the key it is for. 0.25 microseconds.

    >>> slot_of("trips") == slot_of("\\x00htrips\\x00" + "0123456789abcdef")
    True
    """
    if key.startswith(_HOLD):
        assert key[-_HOLD_END] == "\x00", f"{key!r} is not the key of a hold"
        key = key[len(_HOLD) : -_HOLD_END]
    return xxh3_64_intdigest(key.encode()) & (SLOTS - 1)


class Placement:
    """The homes of keys and chunks over one set of names, whatever order they were given in.

    An answer has `count` names, or all when there are fewer. Safe in any thread. Nothing is computed before it is asked
    for; what was computed for slots is shared with other Placements of the same names.

    >>> nodes = Placement(["node-10", "node-2", "node-1"])
    >>> nodes.names
    ('node-1', 'node-2', 'node-10')
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(sorted(names, key=_natural))
        assert len(set(names)) == len(names) <= NAMES_MAX, "names are distinct, and not too many"
        self._positions = {name: position for position, name in enumerate(self.names)}
        self._hashes = _hashed(self.names)
        self._tables: dict[int, _Slots] = {}

    def __repr__(self) -> str:
        return f"<Placement over {len(self.names)} nodes>"

    def homes_of_key(self, key: str, count: int) -> tuple[str, ...]:
        """Return the homes of `key`, in rendezvous order of its slot. 0.4 microseconds.

        Who first asks for a slot of a block has the block weighed: one of 16, 0.5 ms, on 4 names, and one of 1,024,
        1.5 ms, on 1,000; all blocks take 9 ms and 1.2 s.
        """
        if not self.names:
            return ()
        table = self._tables.get(count)
        if table is None:
            table = self._tables[count] = _slots(self.names, min(count, len(self.names)))
        slot = slot_of(key)
        return table.homes[slot] or table.found(slot)

    def homes_of_chunk(self, chunk_id: str, assigned: Sequence[str], count: int) -> tuple[str, ...]:
        """Return the homes of a chunk: those it is assigned to that are here, in their order, then the other names in
        rendezvous order of its id. 2 microseconds when enough of the assigned are here, else 50.
        """
        return self.homes_of_chunks([chunk_id], [assigned], count)[0]

    def homes_of_chunks(
        self, chunk_ids: Sequence[str], assigned: Iterable[Sequence[str]], count: int
    ) -> list[tuple[str, ...]]:
        """Return `homes_of_chunk` of each. ValueError when there are not as many assignments as chunks.

        100,000 chunks take 0.1 s, or 0.75 s when none of their assigned homes is here and 1,000 others are: then 1 MB
        is worked in, besides some 200 bytes a chunk that are asked for and answered.
        """
        here = [
            tuple([name for name in dict.fromkeys(homes) if name in self._positions])[:count]
            for _, homes in zip(chunk_ids, assigned, strict=True)
        ]
        count = min(count, len(self.names))
        short = [index for index, homes in enumerate(here) if len(homes) < count]
        if short:
            orders = _orders(_hashed(chunk_ids[index] for index in short), self._hashes, count)
            for index, order in zip(short, orders.tolist(), strict=True):
                others = [self.names[position] for position in order]
                here[index] = tuple(dict.fromkeys((*here[index], *others)))[:count]
        return here

    def round_the_ring(self, homes: Sequence[str], index: int) -> tuple[str, ...]:
        """Return the homes to assign to chunk `index` of a frame whose key has `homes`: as many, and for chunk 0 these.

        The names in natural order (node-2 before node-10) are a ring. The homes of a chunk are those of the chunk
        before, each moved on by one name; after every turn, which is as many chunks as there are names, all but the
        first are moved on by one more, past the first. KeyError when a home is not among the names.

        So of one frame nodes differ by at most one chunk in how many they are first home of, by at most one in how
        many they are second home of, and so on; in whole turns they do not differ. When a node dies, the chunks that it
        was first home of, one a turn, have each another second home until all others have had one: the others serve
        them differing by one. Of many frames shorter than a turn that holds on average, as second homes of keys are
        spread.
        """
        if not homes:
            return ()
        names, count = self.names, len(self.names)
        turn, step = divmod(index, count)
        first = self._positions[homes[0]]
        further = [((self._positions[home] - first) % count - 1 + turn) % (count - 1) + 1 for home in homes[1:]]
        return tuple([names[(first + step + far) % count] for far in (0, *further)])


class _Slots:
    """The `count` homes of every slot over `names`, weighed a block of slots at a time when one of them is asked for.

    Takes 2 MB; once every slot was asked for and `count` is 2, 3 MB on up to _FEW names and 22 MB on more.
    """

    def __init__(self, names: tuple[str, ...], count: int) -> None:
        self.homes: list[tuple[str, ...] | None] = [None] * SLOTS
        self._names = names
        self._hashes = _hashed(names)
        self._count = count
        slots = min(_SLOTS_A_BLOCK, _WEIGHTS_A_BLOCK // len(names))
        self._bits = slots.bit_length() - 1  # of a slot: its place in its block; the bits above are which block
        self._blocks: list[NDArray[np.uint16] | None] = [None] * (SLOTS >> self._bits)
        self._same: dict[tuple[str, ...], tuple[str, ...]] = {}

    def found(self, slot: int) -> tuple[str, ...]:
        """Return the homes of `slot`, and keep them in `homes`. Threads that do so at once come to the same."""
        index, place = divmod(slot, 1 << self._bits)
        block = self._blocks[index]
        if block is None:
            slots = np.arange(index << self._bits, (index + 1) << self._bits, dtype=np.uint64)
            block = self._blocks[index] = _orders(_mixed(slots, np.empty_like(slots)), self._hashes, self._count)
        homes = tuple([self._names[position] for position in block[place].tolist()])
        if len(self._names) <= _FEW:
            homes = self._same.setdefault(homes, homes)
        self.homes[slot] = homes
        return homes


# Views come and go, but over few sets of members; the members in one process share what they know of each.
@functools.lru_cache(maxsize=32)
def _slots(names: tuple[str, ...], count: int) -> _Slots:
    return _Slots(names, count)


def _hashed(texts: Iterable[str]) -> NDArray[np.uint64]:
    return np.array([xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)


def _orders(subjects: NDArray[np.uint64], hashes: NDArray[np.uint64], count: int) -> NDArray[np.uint16]:
    """Return a row for each of `subjects`: positions in `hashes` of the `count` highest weights, highest first."""
    orders = np.empty((len(subjects), count), np.uint16)
    step = max(1, _WEIGHTS_AT_ONCE // len(hashes))
    # Taken once for all steps: fresh pages from the system for every step would cost more than the arithmetic.
    weights, scratch = _spaces(len(hashes), min(step, len(subjects)))
    positions = np.arange(len(hashes), dtype=np.uint64)[:, None]
    for start in range(0, len(subjects), step):
        rows = orders[start : start + step]
        weighed = np.bitwise_xor(subjects[None, start : start + step], hashes[:, None], out=weights[:, : len(rows)])
        _mixed(weighed, scratch[:, : len(rows)])
        weighed &= ~_POSITION
        weighed |= positions
        _highest(weighed, rows)
    return orders


def _spaces(names: int, subjects: int) -> NDArray[np.uint64]:
    """Return two arrays of `names` x `subjects`, contiguous along the longer side, so that inner loops are long."""
    if names > subjects:
        return np.empty((2, subjects, names), np.uint64).transpose(0, 2, 1)
    return np.empty((2, names, subjects), np.uint64)


def _highest(weights: NDArray[np.uint64], rows: NDArray[np.uint16]) -> None:
    """Put into each of `rows` the positions of the highest of its column of `weights`, which are overwritten."""
    count = rows.shape[1]
    if count >= _SORTED_FROM:
        weights.sort(axis=0)
        rows[:] = (weights[::-1][:count] & _POSITION).T
        return
    columns = np.arange(len(rows))
    for rank in range(count):
        if rank:
            weights[rows[:, rank - 1], columns] = 0
        rows[:, rank] = weights.max(axis=0) & _POSITION


def _mixed(values: NDArray[np.uint64], scratch: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Change `values` to what the finalizer of splitmix64 makes of them. 3 nanoseconds each.

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9; z = (z ^ (z >> 27)) * 0x94D049BB133111EB; z ^ (z >> 31); modulo 2**64.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(values, np.uint64(shift), out=scratch)
        values ^= scratch
        values *= np.uint64(factor)
    np.right_shift(values, np.uint64(31), out=scratch)
    values ^= scratch
    return values


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """The order of names as people count: node-2 before node-10. Names that are equal so ("7", "07") by their text."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)], name
