"""Random queries on several nodes, on one engine, and by DuckDB. A seed is a query: see `RandomQuery(seed).text`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pytest
from tests.distributed.comparing import difference
from tests.distributed.nodes import Cluster
from tests.distributed.random_queries import SIZES, RandomQuery, rows

from eau2.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.query.engine import Engine

SEEDS, BLOCK = 500, 25


@pytest.fixture(scope="module")
def clusters(shared_engine: Engine) -> Iterator[list[Cluster]]:
    """1, 3 and 4 nodes; on the last nothing is small enough to be grouped in one place."""
    made = [Cluster(shared_engine, 1), Cluster(shared_engine, 3), Cluster(shared_engine, 4, gather_bytes_max=0)]
    for cluster in made:
        for name in SIZES:
            cluster.hold(name, rows(name), rows_per_chunk=7)
    yield made
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name in SIZES:
            connection.register("given", rows(name))
            connection.execute(f"create table {name} as select * from given")
            connection.unregister("given")
        yield connection


def check(clusters: list[Cluster], duck: duckdb.DuckDBPyConnection, seed: int) -> bool:
    """Assert that all give one answer to the query of `seed`; return whether DuckDB was asked."""
    query = RandomQuery(seed)
    expected = clusters[0].alone(query.text)
    for cluster in clusters:
        found = cluster.sql(query.text)
        assert difference(found, expected, in_order=query.in_order) == "", (seed, query.text)
        assert found.schema.equals(cluster.recipe(query.text).planned.schema()), (seed, query.text)
    if query.for_duckdb:
        there = duck.sql(query.text).to_arrow_table()
        assert difference(expected, there, in_order=query.in_order) == "", (seed, query.text)
    return query.for_duckdb


@pytest.mark.slow
def test_a_few_random_queries_have_one_answer(clusters, duck):
    asked = [check(clusters, duck, seed) for seed in range(SEEDS, SEEDS + 8)]
    assert any(asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=() if 4 * first < SEEDS else pytest.mark.long) for first in range(0, SEEDS, BLOCK)],
)
def test_random_queries_have_the_same_answer_on_any_number_of_nodes(clusters, duck, first):
    asked = [check(clusters, duck, seed) for seed in range(first, first + BLOCK)]
    assert sum(asked) > BLOCK / 2


@pytest.mark.slow
def test_most_random_queries_are_cut_and_use_every_move(clusters):
    """The properties above would hold of what is gathered, too."""
    explanations = [clusters[2].explain(RandomQuery(seed).text) for seed in range(SEEDS, SEEDS + 40)]
    assert sum(each.uncut == "" for each in explanations) > 36
    assert {step.move for each in explanations for step in each.steps} == {"gather", "broadcast", "exchange"}


@pytest.mark.slow
def test_a_wrong_answer_is_noticed(clusters):
    """Queries that differ a little have other answers: the data tells them apart."""
    noticed = 0
    for one, other in (
        ("a.i = b.j", "a.i = b.j and a.s is not null"),
        ("a.i = b.j", "a.i is not distinct from b.j"),
        ("a.s = b.x", "a.s = b.x and b.n > 9"),
        ("a.d = b.d", "a.d <= b.d"),
    ):
        left, right = (clusters[0].sql(f"select a.n, b.n as m from a left join b on {on}") for on in (one, other))
        noticed += difference(left, right) != ""
    assert noticed == 4


def test_what_the_engine_refuses_the_nodes_refuse(clusters):
    for query in ("select a.n from a where a.i = a.o", "select nothing from a", "select * from nowhere"):
        for ask in (clusters[0].alone, *(cluster.sql for cluster in clusters)):
            with pytest.raises(QueryError):
                ask(query)
