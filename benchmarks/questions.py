"""Two tables and ten questions, and how answers are compared. Imports nothing of eau2: its peers run this too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator

BUYERS, KINDS, LABELS, REGIONS = 100_000, 100, 10_000, 50
ROWS_PER_PART = 1_000_000
TOLERANCE = 1e-9  # sums of floats depend on their order

QUERIES = {
    "count, small table": "select count(*) as n from buyers where weight < 0.5",
    "group by 100,000 integers": "select buyer, sum(amount) as total, avg(amount) as mean from sales group by buyer",
    "group by 100 integers": "select kind, sum(amount) as total, avg(amount) as mean from sales group by kind",
    "group by 10,000 strings": "select label, sum(amount) as total, count(*) as n from sales group by label",
    "filter": "select buyer, amount from sales where amount < 0.01 and kind < 50",
    "needle": "select buyer, amount, label from sales where buyer = 31415",
    "top 100": "select buyer, amount from sales order by amount desc limit 100",
    "join with a small table": "select b.region, sum(s.amount * b.weight) as total"
    " from sales s join buyers b on s.buyer = b.buyer group by b.region",
    "count distinct": "select count(distinct buyer) as buyers, count(distinct label) as labels from sales",
    "join with itself": "select count(*) as n, sum(a.amount * b.amount) as total"
    " from sales a join sales b on a.id = b.id where a.kind < 20",
}


def buyers() -> pa.Table:
    """buyer 0..99,999, weight in [0, 1), region of 50."""
    random = np.random.default_rng(11)
    regions = [f"region {index % REGIONS}" for index in range(BUYERS)]
    return pa.table({"buyer": np.arange(BUYERS), "weight": random.random(BUYERS), "region": pa.array(regions)})


def sales(count: int) -> Iterator[pa.RecordBatch]:
    """id (the row's number), buyer of 100,000, kind of 100, amount in [0, 1), label of 10,000; always the same."""
    random = np.random.default_rng(12)
    labels = pa.array([f"label {index:05d}" for index in range(LABELS)])
    for first in range(0, count, ROWS_PER_PART):
        size = min(ROWS_PER_PART, count - first)
        yield pa.record_batch(
            {
                "id": pa.array(np.arange(first, first + size)),
                "buyer": pa.array(random.integers(0, BUYERS, size)),
                "kind": pa.array(random.integers(0, KINDS, size)),
                "amount": pa.array(random.random(size)),
                "label": labels.take(pa.array(random.integers(0, LABELS, size))),
            }
        )


def alike(one: list[float], two: list[float]) -> bool:
    """Whether two fingerprints are of the same answer, but for the order in which floats were added."""
    return len(one) == len(two) and all(
        math.isclose(found, wanted, rel_tol=TOLERANCE) for found, wanted in zip(one, two, strict=True)
    )


def fingerprint(table: pa.Table) -> list[float]:
    """The number of rows, then a column's sum where it is of numbers, or the length of its text together."""
    found = [float(table.num_rows)]
    for column in table.columns:
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            total = pc.sum(column)
        else:
            total = pc.sum(pc.utf8_length(column.cast(pa.string())))
        found.append(float(total.as_py() or 0))  # of no rows there is none
    return found
