"""How the engine is set: how many rows it hands on at once, how joins look up integers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from eau2.query.row_wise import filters, let_few_pass
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


@pytest.mark.parametrize(
    ("condition", "few"),
    [
        ("wide = 4242", True),
        ("7 = wide", True),
        ("wide = 4242 and text like 'a%'", True),
        ("narrow < 5 and (text = 'a' and wide = 1)", True),
        ("narrow = 5", False),
        ("holes = 5", False),
        ("text = 'a'", False),
        ("wide = 4242 or narrow = 5", False),
        ("wide < 4242", False),
        ("wide = narrow", False),
        (" and ".join(f"text <> '{number}'" for number in range(600)) + " and wide = 3", True),
    ],
)
def test_rows_are_handed_on_in_small_steps_where_hardly_one_is_wanted(tables, condition, few):
    rows = 100_000
    random = np.random.default_rng(3)
    table = pa.table(
        {
            "wide": random.integers(-(2**62), 2**62, rows),
            "narrow": random.integers(0, 100, rows).astype(np.int8),
            "holes": pa.array(random.integers(0, 2**40, rows), mask=np.arange(rows) < rows // 2),  # a chunk of nulls
            "text": ["a"] * rows,
        }
    )
    tables.hold("t", table, rows_per_chunk=rows // 2)
    recipe = tables.engine.sql(f"select * from t where {condition}", tables.sources.get)
    found = filters(recipe.planned)
    assert let_few_pass(found, tables.sources["t"]) == few
    expected = tables.engine.collect(
        tables.engine.sql(f"select * from t where ({condition}) is true", tables.sources.get)
    )
    assert tables.engine.collect(recipe).equals(expected)


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
