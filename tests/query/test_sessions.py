"""How the engine is set: how many rows it hands on at once, how joins look up integers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from eau2.query.sessions import ROWS_PER_STEP, ROWS_PER_STEP_IN_ORDER


def most_rows_at_once(tables, table, query="select * from t where id % 3 = 0"):
    tables.hold("t", table)
    return max(batch.num_rows for batch in tables.sql(query).batches())


def test_fewer_rows_are_handed_on_at_once_where_they_are_wide_or_memory_is_small(tables, make_tables):
    rows = 200_000
    narrow = pa.table({"id": np.arange(rows), "v": np.arange(rows) / 4})
    assert 8192 < most_rows_at_once(tables, narrow) <= ROWS_PER_STEP_IN_ORDER
    groups = "select id, sum(v) from t group by id"
    assert 8192 < most_rows_at_once(tables, narrow, groups) <= ROWS_PER_STEP
    assert most_rows_at_once(tables, narrow.append_column("text", pa.array(["x" * 300] * rows))) <= 8192
    assert most_rows_at_once(make_tables(16 << 20, threads=2), narrow) <= 8192


@pytest.mark.parametrize("apart", [1, 4, 15, 60, 10**12])
def test_a_join_by_integers_finds_each_pair_however_far_apart_the_keys_are(tables, apart):
    random = np.random.default_rng(5)
    keys, others = ((random.integers(-5000, 5000, 20_000) * apart) for _ in "ab")
    missing = random.random(20_000) < 0.1
    tables.hold("a", pa.table({"k": pa.array(keys, mask=missing)}))
    tables.hold("b", pa.table({"k": others}))

    found = dict(zip(*(each.tolist() for each in np.unique(keys[~missing], return_counts=True)), strict=True))
    pairs = sum(found.get(key, 0) for key in others.tolist())
    alone = sum(key not in found for key in others.tolist())
    inner = tables.sql("select count(*) as n from a join b on a.k = b.k").to_arrow()
    assert inner.to_pylist() == [{"n": pairs}]
    left = tables.sql("select count(*) as n, count(a.k) as met from b left join a on a.k = b.k").to_arrow()
    assert left.to_pylist() == [{"n": pairs + alone, "met": pairs}]
