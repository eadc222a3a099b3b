"""The figures of a store as a table: those of now, and of some time before. Rules ask it, and the store keeps it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from eau2.errors import Eau2Error

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Sequence

    from eau2.store.store import Store

SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", "UTC")),
        pa.field("node", pa.string()),
        pa.field("name", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("unit", pa.string()),
    ]
)
FINE_SECONDS = 300.0  # older rounds are thinned
COARSE_SECONDS = 60.0  # to one in so long


class Reading(NamedTuple):
    """One figure of one node."""

    node: str
    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at a store has found. `trouble`: what could not be seen, and why; "" when all was."""

    readings: tuple[Reading, ...]
    trouble: str


def see(store: Store) -> Seen:
    """Return what the nodes of `store` say of themselves now: their counts, and of each member `live`, 1 or 0.

    Never raises for a store that does not answer: members are known though the nodes are not, and the reverse.
    """
    found: list[Reading] = []
    troubles: list[str] = []
    try:
        found += [Reading(member.name, "live", float(member.state == "live"), "") for member in store.members()]
    except Eau2Error as error:
        troubles.append(error.message)
    try:
        for report in store.reports():
            found += [Reading(report.node, each.name, each.value, each.unit) for each in report.metrics]
    except Eau2Error as error:
        troubles.append(error.message)
    return Seen(tuple(found), "; ".join(dict.fromkeys(troubles)))


class Readings:
    """The rounds of the last `keep_seconds`: all of the last FINE_SECONDS, and one in COARSE_SECONDS of before."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._rounds: deque[tuple[float, pa.RecordBatch]] = deque()

    def add(self, now: float, readings: Iterable[Reading]) -> None:
        """Have what was read at `now` (seconds since 1970), and drop what is too old."""
        several = list(readings)
        columns = [[getattr(one, name) for one in several] for name in SCHEMA.names[1:]]
        times = pa.array([round(now * 1e6)] * len(several), pa.int64()).cast(SCHEMA.field("time").type)
        arrays = [times, *map(pa.array, columns, SCHEMA.types[1:])]
        self._rounds.append((now, pa.record_batch(arrays, schema=SCHEMA)))
        self._drop(now)

    def _drop(self, now: float) -> None:
        kept: deque[tuple[float, pa.RecordBatch]] = deque()
        slot = None
        for time, batch in self._rounds:
            if now - time > self._keep_seconds:
                continue
            if now - time > FINE_SECONDS and slot == time // COARSE_SECONDS:
                continue
            slot = time // COARSE_SECONDS
            kept.append((time, batch))
        self._rounds = kept

    def restore(self, table: pa.Table) -> None:
        """Have what another has kept, where it is of that form."""
        if table.schema.names != SCHEMA.names or not table.schema.equals(SCHEMA):
            return
        by_time: dict[datetime.datetime, list[int]] = {}
        for row, time in enumerate(table.column("time").to_pylist()):
            by_time.setdefault(time, []).append(row)
        rounds = [(time.timestamp(), table.take(rows).combine_chunks()) for time, rows in sorted(by_time.items())]
        self._rounds = deque((time, each.to_batches()[0]) for time, each in rounds)

    @property
    def latest(self) -> pa.Table:
        """The last round."""
        return _table([self._rounds[-1][1]] if self._rounds else [])

    @property
    def kept(self) -> pa.Table:
        """All rounds, the oldest first."""
        return _table([batch for _, batch in self._rounds])


def _table(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, SCHEMA).combine_chunks()
