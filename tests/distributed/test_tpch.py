"""The queries of TPC-H on several nodes, on one engine, and by DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pytest
from tests.distributed.comparing import difference
from tests.distributed.nodes import Cluster
from tests.distributed.tpch import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.query.engine import Engine

CHUNKS = 10  # of each table


@pytest.fixture(
    scope="module",
    params=[4, 3, 1],
)
def cluster(request: pytest.FixtureRequest, shared_engine: Engine, tpch: dict[str, pa.Table]) -> Iterator[Cluster]:
    """Several nodes; on four of them nothing is small enough to be grouped in one place."""
    made = Cluster(shared_engine, request.param, **({"gather_bytes_max": 0} if request.param == 4 else {}))
    for name, table in tpch.items():
        made.hold(name, table, rows_per_chunk=-(-table.num_rows // CHUNKS))
    yield made
    made.close()


@pytest.fixture(scope="module")
def duck(tpch: dict[str, pa.Table]) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        for name, table in tpch.items():
            connection.register(name, table)
        yield connection


@pytest.mark.slow
@pytest.mark.long  # tests/remote/test_queries.py has them on four nodes over sockets
@pytest.mark.parametrize("number", QUERIES)
def test_a_query_has_the_answer_of_one_engine_and_of_duckdb(cluster, duck, number):
    query = QUERIES[number]
    expected = cluster.alone(query)
    assert difference(expected, duck.sql(query).to_arrow_table(), in_order=True) == ""
    assert expected.num_rows > 0, "a scale at which nothing is left shows nothing"
    found = cluster.sql(query)
    assert found.schema.equals(cluster.recipe(query).planned.schema())
    assert difference(found, expected, in_order=True) == ""
    assert cluster.explain(query).uncut == ""


@pytest.mark.slow
def test_columns_that_may_be_missing_change_no_answer(shared_engine, tpch):
    cluster = Cluster(shared_engine, 3)
    try:
        for name, table in tpch.items():
            nullable = pa.schema([pa.field(field.name, field.type) for field in table.schema])
            cluster.hold(
                name, pa.Table.from_arrays(table.columns, schema=nullable), rows_per_chunk=-(-table.num_rows // CHUNKS)
            )
        for number in (4, 13, 16, 20, 21, 22):
            assert difference(cluster.sql(QUERIES[number]), cluster.alone(QUERIES[number]), in_order=True) == ""
            assert cluster.explain(QUERIES[number]).uncut == ""
    finally:
        cluster.close()
