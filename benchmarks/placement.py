"""How evenly keys and chunks are placed, and what moves when a node leaves or joins, on 2 to 1,000 nodes.

Beside eau2: a consistent-hash ring with 160 virtual points a node, jump hash, and the hash modulo the number of nodes.
All four get the same keys and the same XXH3-64 of them.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
from xxhash import xxh3_64_intdigest

from benchmarks.measure import interleaved, sized, target
from eau2.values.placement import SLOTS, Placement, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEYS = 1_000_000
CHUNKS = 100_000
NODES = (2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
LEAVERS = 2  # each leaves alone; the mean counts
POINTS = 160
COPIES = 2
ABSENT = "100,000 chunks on 1,000 nodes, none of their assigned homes live"
LOOK_UPS = "100,000 look-ups of keys on 1,000 nodes"
SECONDS_MAX = 2.0
KEY_LOAD_MAX = 1.3
MOVED_MAX = 1.1


def hashes(texts: Sequence[str]) -> np.ndarray:
    return np.array([xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)


def ring(hashed: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The node of the first virtual point clockwise."""
    points = hashes([f"{name}#{point}" for name in names for point in range(POINTS)])
    order = np.argsort(points)
    return order[np.searchsorted(points[order], hashed) % len(points)] // POINTS


def jump(hashed: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Jump consistent hash of Lamping and Veach, for all keys at once."""
    state, bucket, ahead = hashed.copy(), np.zeros(len(hashed), np.int64), np.zeros(len(hashed), np.int64)
    going = np.arange(len(hashed))
    while len(going):
        bucket[going] = ahead[going]
        state[going] = state[going] * np.uint64(2862933555777941757) + np.uint64(1)
        ahead[going] = (bucket[going] + 1) * (2.0**31 / ((state[going] >> np.uint64(33)) + np.uint64(1)))
        going = going[ahead[going] < len(names)]
    return bucket


def modulo(hashed: np.ndarray, names: Sequence[str]) -> np.ndarray:
    return (hashed % np.uint64(len(names))).astype(np.int64)


class OfKeys:
    """eau2's place of keys. Keys of one slot have the same homes: one of each slot is asked for, the others follow."""

    def __init__(self, keys: Sequence[str]) -> None:
        _, first, self.inverse = np.unique([slot_of(key) for key in keys], return_index=True, return_inverse=True)
        self.asked = [keys[index] for index in first]

    def __call__(self, hashed: np.ndarray, names: Sequence[str]) -> np.ndarray:
        number = {name: index for index, name in enumerate(names)}
        homes = Placement(names).homes_of_key
        return np.array([number[homes(key, COPIES)[0]] for key in self.asked])[self.inverse]


def without(names: list[str], leaver: int, peer: str) -> list[str]:
    """The names that are left. Under jump the last one takes the number of the leaver: all others move else."""
    if peer == "jump":
        return [*names[:leaver], names[-1], *names[leaver + 1 : -1]] if leaver < len(names) - 1 else names[:-1]
    return names[:leaver] + names[leaver + 1 :]


def moved(before: np.ndarray, names: Sequence[str], after: np.ndarray, later: Sequence[str]) -> float:
    number = {name: index for index, name in enumerate(names)}
    same = np.array([number.get(name, -1) for name in later])[after]
    return float(np.mean(before != same))


def most(placed: np.ndarray, nodes: int) -> float:
    """What the fullest node has, of the mean."""
    return float(np.bincount(placed, minlength=nodes).max() * nodes / len(placed))


def of_keys(peer: str, place: Callable, hashed: np.ndarray, nodes: int) -> dict[str, float]:
    names = [f"node-{number}" for number in range(nodes)]
    before = place(hashed, names)
    left = []
    for leaver in [nodes * part // LEAVERS for part in range(LEAVERS)]:
        later = without(names, leaver, peer)
        left.append(moved(before, names, place(hashed, later), later))
    later = [*names, "newcomer"]
    return {
        "keys": most(before, nodes),
        "leave": statistics.fmean(left),
        "join": moved(before, names, place(hashed, later), later),
    }


def of_chunks(peer: str, place: Callable, ids: Sequence[str], nodes: int) -> dict[str, float]:
    """Chunks of one frame: what the fullest node serves, and what the fullest serves once another has died."""
    names = [f"node-{number}" for number in range(nodes)]
    later = without(names, nodes // 2, peer)
    if peer != "eau2":
        hashed = hashes(ids)
        return {
            "chunks": most(place(hashed, names), nodes),
            "chunks_after_death": most(place(hashed, later), nodes - 1),
        }
    placement, left = Placement(names), Placement(later)
    homes = placement.homes_of_key("trips", COPIES)
    assigned = [placement.round_the_ring(homes, index) for index in range(len(ids))]
    result = {}
    for what, those in (("chunks", placement), ("chunks_after_death", left)):
        number = {name: index for index, name in enumerate(those.names)}
        served = [number[homes[0]] for homes in those.homes_of_chunks(ids, assigned, COPIES)]
        result[what] = most(np.array(served), len(those.names))
    return result


def balance() -> dict[str, dict[str, dict[str, float]]]:
    """figures[peer][nodes]: the load of the fullest node and the shares that moved."""
    keys = [f"trips/{number:06}" for number in range(sized(KEYS, 20_000))]
    ids = [f"{xxh3_64_intdigest(key.encode()):032x}" for key in keys[: sized(CHUNKS, 5_000)]]
    hashed = hashes(keys)
    peers: dict[str, Callable] = {"eau2": OfKeys(keys), "ring": ring, "jump": jump, "modulo": modulo}
    counts = NODES if len(keys) == KEYS else NODES[::4]
    return {
        peer: {str(nodes): of_keys(peer, place, hashed, nodes) | of_chunks(peer, place, ids, nodes) for nodes in counts}
        for peer, place in peers.items()
    }


def table_seconds(nodes: int) -> Callable[[], float]:
    """What it takes to weigh every slot for names not seen before: one key of each block of slots is looked up."""
    block = min(1 << 14, 1 << ((1 << 18) // nodes).bit_length() - 1)  # as eau2.values.placement cuts them
    keys = {slot_of(str(number)) // block: str(number) for number in range(SLOTS // block * 20)}
    assert len(keys) == SLOTS // block
    fresh = iter(range(1_000_000))

    def measured() -> float:
        names = [f"table-{next(fresh)}-{number}" for number in range(nodes)]
        start = time.perf_counter()
        homes = Placement(names).homes_of_key
        for key in keys.values():
            homes(key, COPIES)
        return time.perf_counter() - start

    return measured


def seconds() -> dict[str, dict[str, float]]:
    names = [f"node-{number}" for number in range(1000)]
    placement = Placement(names)
    ids = [f"{xxh3_64_intdigest(str(number).encode()):032x}" for number in range(CHUNKS)]
    here = [placement.round_the_ring(("node-1", "node-7"), index) for index in range(CHUNKS)]
    gone: list[tuple[str, ...]] = [("gone-1", "gone-2")] * CHUNKS
    keys = [f"trips/{number}" for number in range(100_000)]
    work = {
        "100,000 chunks on 1,000 nodes, their assigned homes live": lambda: placement.homes_of_chunks(
            ids, here, COPIES
        ),
        ABSENT: lambda: placement.homes_of_chunks(ids, gone, COPIES),
        "every slot on 4 nodes": table_seconds(4),
        "every slot on 1,000 nodes": table_seconds(1000),
        "100,000 slots": lambda: [slot_of(key) for key in keys],
        LOOK_UPS: lambda: [placement.homes_of_key(key, COPIES) for key in keys],
    }
    figures = {what: timing.figures() for what, timing in interleaved(work).items()}
    tracemalloc.start()
    placement.homes_of_chunks(ids, gone, COPIES)
    figures["memory"] = {"bytes": tracemalloc.get_traced_memory()[1]}
    tracemalloc.stop()
    return figures


def table(title: str, figures: dict, columns: dict[str, str]) -> dict:
    """A row for each number of nodes, and in it for each of `columns` a figure of each peer."""
    peers = list(figures)
    rows = [
        [f"{int(nodes):,}", *(figures[peer][nodes][what] for what in columns for peer in peers)]
        for nodes in figures["eau2"]
    ]
    return {
        "title": title,
        "columns": ["nodes", *(f"{words} {peer}".strip() for words in columns.values() for peer in peers)],
        "rows": rows,
    }


def run() -> dict:
    """figures["balance"][peer][nodes], and figures["seconds"] of what was timed."""
    figures = {"balance": balance(), "seconds": seconds()}
    timed = {what: one["seconds"] for what, one in figures["seconds"].items() if "seconds" in one}
    return {
        "figures": figures,
        "tables": [
            table("Keys: what the fullest node has, of the mean", figures["balance"], {"keys": ""}),
            table("Keys: share that moves when a node leaves", figures["balance"], {"leave": ""}),
            table("Keys: share that moves when a node joins", figures["balance"], {"join": ""}),
            table(
                "Chunks of a frame: what the fullest node serves, of the mean; then when one has died",
                figures["balance"],
                {"chunks": "", "chunks_after_death": "after a death,"},
            ),
            {
                "title": "Times, ms",
                "columns": ["", "ms"],
                "rows": [[what, value * 1e3] for what, value in timed.items()],
            },
        ],
        "targets": [*_timely(timed, figures["seconds"]["memory"]["bytes"]), *_even(figures["balance"]["eau2"])],
    }


def _timely(timed: dict[str, float], memory: int) -> list[dict]:
    look_up, slot = (timed[what] * 10 for what in (LOOK_UPS, "100,000 slots"))  # microseconds of one
    return [
        target(ABSENT, timed[ABSENT], at_most=SECONDS_MAX, unit="s"),
        target("the same, memory with the answers", memory / 1e6, at_most=100, unit="MB"),
        target("every slot on 1,000 nodes", timed["every slot on 1,000 nodes"], at_most=SECONDS_MAX, unit="s"),
        target("every slot on 4 nodes", timed["every slot on 4 nodes"] * 1e3, at_most=10, unit="ms"),
        target("look-up of a key", look_up, at_most=1, unit="us"),
        target("slot of a key", slot, at_most=0.5, unit="us"),
    ]


def _even(ours: dict[str, dict[str, float]]) -> list[dict]:
    keys, chunks = (max(one[what] for one in ours.values()) for what in ("keys", "chunks"))
    leave = max(one["leave"] * int(nodes) for nodes, one in ours.items())
    join = max(one["join"] * (int(nodes) + 1) for nodes, one in ours.items())
    return [
        target("keys of the fullest node, of the mean, at worst", keys, at_most=KEY_LOAD_MAX),
        target("chunks of the fullest node, of the mean, at worst", chunks, at_most=1.01),
        target("keys that move when one of n leaves, of 1/n, at worst", leave, at_most=MOVED_MAX),
        target("keys that move when a node joins n, of 1/(n + 1), at worst", join, at_most=MOVED_MAX),
    ]
