"""Queries that a server is asked as plans, and those that run at the client, find what a local store finds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.served.serving import serving
from tests.until import until

import eau2
from eau2 import col, lit
from eau2.distributed.substrait import Dialect, consumed


@pytest.fixture
def stores(tmp_path):
    """A store that is served, and one at hand."""
    with (
        serving(tmp_path / "served") as address,
        eau2.open(address) as served,
        eau2.open(tmp_path / "local") as local,
    ):
        yield served, local


@given(some.floats(allow_nan=False, allow_infinity=False), some.floats(width=32, allow_nan=False, allow_infinity=False))
def test_numbers_in_plans_keep_every_bit(double, single):
    dialect = Dialect()
    table = pa.table({"a": [0]})
    frame = dialect.session.from_arrow(table, name="t")
    values = [pa.scalar(double), pa.scalar(single, pa.float32())]
    rel = dialect.relation(frame.select(*(lit(value).alias(f"c{at}") for at, value in enumerate(values))))
    plan = consumed(dialect.session, dialect.encode(rel))
    found = dialect.session.create_dataframe_from_logical_plan(plan).to_arrow_table()
    assert [column[0] for column in found.columns] == values


def test_served_filters_find_doubles(stores):
    served, _ = stores
    values = np.random.default_rng(1).random(300) * 10.0 ** np.arange(-150, 150)
    for store in stores:
        store.put("t", {"a": values})
    for value in map(float, values[::3]):
        assert served.frame("t").filter(col("a") == lit(value)).rows == 1
        found = served.sql("select count(*) as n from t where a = $x", parameters={"x": value})
        assert found.to_arrow()["n"].to_pylist() == [1]


def test_what_has_no_plan_runs_here(stores):
    served, local = stores
    table = pa.table({"a": range(5), "half": np.arange(5).astype("f2")})
    for store in stores:
        store.put("halves", table)
        assert store.frame("halves").filter(col("a") >= lit(2)).to_arrow().equals(table.slice(2))
    for store in stores:
        store.put("nan", {"a": pa.array([1.0, math.nan, 3.0], pa.float32())})
    for type_ in (pa.float32(), pa.float64()):
        for value in (math.nan, math.inf, -math.inf):
            odd = lit(pa.scalar(value, type_))
            for condition in (col("a") == odd, col("a") >= odd, col("a") < odd):
                assert served.frame("nan").filter(condition).rows == local.frame("nan").filter(condition).rows


def test_an_idle_server_lets_go_of_what_others_delete(tmp_path):
    with serving(tmp_path) as address, eau2.open(tmp_path) as other:
        other.put("t", {"a": range(100_000)})
        with eau2.open(address) as served:
            assert served.sql("select max(a) as a from t").to_arrow()["a"].to_pylist() == [99_999]

        def mapped():
            return [
                line
                for line in Path("/proc/self/maps").read_text().splitlines()
                if f" {tmp_path}/node-0/chunks" in line
            ]

        until(lambda: all(line.endswith(".arrow") for line in mapped()) and mapped())
        other.delete("t")
        until(lambda: not mapped())
