"""What plans lose or refuse when they are cut: each is right, cut another way or gathered."""

from __future__ import annotations

import datetime as dt
import time

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.arrow_types import COLUMNS
from tests.distributed.comparing import difference

from eau2.errors import QueryError
from eau2.query.placeholders import bound

pytestmark = pytest.mark.slow  # make check has the rest of what is cut

ROWS = 12


def odd_table():
    return pa.table(
        {
            "id": pa.array([1, 2, None, 4, 5, 6, 7, None, 9, 10, 11, 12]),
            "k": pa.array(["a", "b", None, "a", "b", "c"] * 2),
            "v": pa.array([1.5, 2.5, None, -1.0, float("nan"), 6.5] * 2),
            "d": [dt.date(2026, 1, 1 + 2 * index) for index in range(ROWS)],
            "tz": pa.array([dt.datetime(2026, 7, 1, index) for index in range(ROWS)], pa.timestamp("us", "Asia/Tokyo")),
            "l": pa.array([[1, 2], [], None, [3]] * 3),
            "s": pa.array([{"x": index % 2, "y": "z"} for index in range(ROWS)]),
        }
    )


@pytest.fixture
def cluster(make_cluster):
    """Four nodes that have frames with missing values, and exchange whatever is grouped."""
    made = make_cluster(4, gather_bytes_max=0)
    made.hold("t", odd_table(), rows_per_chunk=2)
    made.hold("u", odd_table().select(["id", "k", "v"]).slice(1, 6), rows_per_chunk=2)
    made.hold("full", pa.table({"id": [1, 2, 5], "k": ["a", "b", "a"]}), rows_per_chunk=1)
    made.hold("none", pa.table({"id": pa.array([], pa.int64()), "k": pa.array([], pa.string())}), rows_per_chunk=1)
    return made


def check(cluster, query, *, is_cut):
    found, expected = cluster.sql(query), cluster.alone(query)
    assert difference(found, expected) == ""
    assert found.schema.types == expected.schema.types
    assert found.schema.names == expected.schema.names
    explanation = cluster.explain(query)
    assert (explanation.uncut == "") == is_cut, explanation
    return found


# -- NOT IN ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "kept"),
    [("u", 0), ("full", 7), ("none", 12), ("u where id is not null", 5), ("u where id is null", 0)],
)
def test_not_in_knows_missing_values_on_either_side(cluster, inner, kept):
    query = f"select id, k from t where id not in (select id from {inner})"
    assert check(cluster, query, is_cut=True).num_rows == kept


def test_several_not_in_are_told_from_not_exists(cluster):
    check(
        cluster,
        "select id from t where id not in (select id from full) and k not in (select k from u where k is not null) "
        "and not exists (select 1 from u where u.id = t.id)",
        is_cut=True,
    )
    check(cluster, "select k, count(*) from t where id not in (select id from u) group by k", is_cut=True)
    check(
        cluster, "select f.id from full f where f.id + 1 not in (select u.id from u join t on u.id = t.id)", is_cut=True
    )


@pytest.mark.parametrize("condition", ["id > all (select id from full)", "id = any (select id from u)"])
def test_comparisons_with_all_rows_of_a_subquery_are_cut(cluster, condition):
    check(cluster, f"select id from t where {condition}", is_cut=True)


def test_not_in_beside_a_subquery_in_an_expression(cluster):
    check(cluster, "select id, (select max(id) from u) from t where id not in (select id from full)", is_cut=True)


@pytest.mark.parametrize("inner", ["select id from u where u.k = t.k", "select id from u where u.v < t.v"])
def test_not_in_that_depends_on_the_outer_row_is_refused(cluster, inner):
    with pytest.raises(QueryError, match="NOT EXISTS"):
        cluster.sql(f"select id from t where id not in ({inner})")


@pytest.mark.parametrize(
    "query", ["select * from t tablesample (10 percent)", "select id from t TableSample system (1)"]
)
def test_a_sample_is_refused_which_the_engine_would_not_take(cluster, query):
    with pytest.raises(QueryError, match="TABLESAMPLE"):
        cluster.sql(query)


def test_a_text_that_says_tablesample_is_no_sample(cluster):
    check(cluster, "select 'tablesample' as \"tablesample\", id from t -- tablesample", is_cut=True)


# -- what Substrait does not say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "select id from t where k similar to 'a|b'",
        "select id, unnest(l) as x from t",
        "with recursive r as (select min(id) as n from t union all select n + 1 from r where n < 5) "
        "select r.n, t.k from r join t on t.id = r.n",
        "select null as x, id from t",
        "select id from t where v = 'NaN'::double",
        "select id, first_value(k) ignore nulls over (order by d desc) as f from t",
        "select id, lag(k) ignore nulls over (order by d) as f from t",
        "select sum(id) over (order by d groups between 1 preceding and current row) as f from t",
        "select sum(id) over (order by d range between interval '4 day' preceding and current row) as f from t",
        "select d, sum(id) filter (where k = 'a') over (order by d) as f from t",
    ],
)
def test_what_substrait_cannot_say_is_gathered_and_right(cluster, query):
    check(cluster, query, is_cut=False)


@pytest.mark.parametrize(
    "query",
    [
        "select k from twice where k similar to 'a|b'",
        "select k, null as x from twice",
        "select k from twice where e = 'a'",
        "select coalesce(e, 'q') as x from twice",
        "select k, unnest(l) as x from twice",
        "select arrow_cast(n, 'Float16') as x from twice",
    ],
)
def test_what_substrait_cannot_say_is_gathered_also_of_tables_with_several_columns_of_a_type(cluster, query):
    words, numbers, lists = pa.array(["a", "b", "a", None]), pa.array([1, 2, 3, 4]), pa.array([[1, 2], [], [3], None])
    columns = {"k": words, "x": words, "n": numbers, "m": numbers, "l": lists, "o": lists}
    columns |= {name: words.dictionary_encode() for name in ("e", "f", "g")}
    cluster.hold("twice", pa.table({**columns, "y": words, "p": numbers, "r": lists}), rows_per_chunk=2)
    check(cluster, query, is_cut=False)


@pytest.mark.slow
@pytest.mark.parametrize("terms", [40, 150])
def test_a_long_chain_of_conditions_is_gathered(cluster, terms):
    """Each is nested in the one before: deeper than Substrait is read, and deeper than Python recurses."""
    condition = " or ".join(f"k like '%{term}%'" for term in range(terms))
    check(cluster, f"select id from t where {condition} or k = 'a'", is_cut=False)
    assert cluster.explain(f"select id from t where {condition}", run=False).uncut


@pytest.mark.parametrize(
    "query",
    [
        "select k, now() > '2026-01-01' as x from t where k similar to 'a'",
        "select id from t where d < now() and k similar to 'a|b'",
        "select id, date_part('year', current_timestamp) > 9 as x from t where d < current_date and k similar to 'a'",
        "select id from t where d < (select now()) and k similar to 'a' and cast(now() as varchar) > '2'",
        "select id, unnest(l) as x from t where arrow_cast(d, 'Timestamp(us)') + interval '9 hours' < now()",
    ],
)
def test_what_tells_the_time_is_gathered_too(cluster, query):
    check(cluster, query, is_cut=False)


def test_rows_that_pass_by_the_time_they_have_come_are_looked_for_in_all_chunks(cluster):
    """The plan chose its chunks by an earlier time."""
    moment = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=0.5)
    times = pa.array([dt.datetime(2026, 1, 1)] * 3 + [moment] * 3, pa.timestamp("us"))
    cluster.hold("events", pa.table({"id": range(6), "at": times}), rows_per_chunk=2)
    recipe = cluster.recipe("select id from events where at <= now() and cast(id as varchar) similar to '.'")
    time.sleep(0.6)
    assert cluster.distributed.collect(recipe)["id"].to_pylist() in ([0, 1, 2], [0, 1, 2, 3, 4, 5])


def test_what_is_gathered_is_first_filtered_and_projected_where_it_is(cluster):
    wide = pa.table({"a": np.arange(1000), "b": ["x" * 100] * 1000, "c": np.arange(1000.0)})
    cluster.hold("wide", wide, rows_per_chunk=100)
    query = (
        "select sum(c) over (order by a groups between 1 preceding and current row) as f from wide where a % 100 = 7"
    )
    assert cluster.sql(query)["f"].to_pylist() == cluster.alone(query)["f"].to_pylist()
    explanation = cluster.explain(query)
    assert explanation.uncut
    assert explanation.moved_rows == 10
    assert explanation.moved_bytes < 10 * 30


def test_a_table_read_twice_is_gathered_with_the_rows_that_either_needs(cluster):
    check(
        cluster,
        "select x.id from t x, t y where x.id = 1 and y.id = 2 and x.k similar to 'a' and y.k similar to 'b'",
        is_cut=False,
    )


def test_what_is_another_value_each_time_it_is_asked_for_is_asked_for_once(cluster):
    """Rows go by it neither to partitions nor, as a part of them in each place, to the next."""
    cluster.hold("many", pa.table({"id": np.arange(300)}), rows_per_chunk=50)
    found = cluster.sql("select floor(random() * 3) as g, median(id) as m, count(*) as n from many group by 1")
    assert sorted(found["g"].to_pylist()) == [0, 1, 2]
    assert sum(found["n"].to_pylist()) == 300
    query = "select count(*) as n from many a join many b on a.id = b.id - floor(random() * 2)"
    assert cluster.sql(query)["n"].to_pylist()[0] >= 299
    for query in (
        "select row_number() over (partition by floor(random() * 3) order by id) as r from many",
        "select id from many order by random() limit 3",
    ):
        explanation = cluster.explain(query)
        assert ([step.move for step in explanation.steps], explanation.moved_rows) == (["gather"], 300)


def test_uncorrelated_scalar_subqueries_hide_in_expressions(cluster):
    check(cluster, "select id + (select max(id) from u) as x, (select count(*) from none) as n from t", is_cut=True)
    check(cluster, "select k, sum(v) from t where v > (select avg(id) from full) group by k", is_cut=True)
    check(cluster, "select id from t order by (select min(id) from u), d desc limit 3", is_cut=True)
    check(
        cluster,
        "select t.id from t join u on t.id = u.id "
        "and t.d > (select min(d) from t where id > (select min(id) from full))",
        is_cut=True,
    )
    check(cluster, "select case when id > 5 then (select k from full where id = 1) else k end as x from t", is_cut=True)
    check(cluster, "select (select id from none) as x, id from t", is_cut=True)


@pytest.mark.parametrize(
    "query",
    [
        "select id from t order by abs(v - (select avg(id) from u)), id limit 5",
        "select id, row_number() over (partition by id % (select max(id) from u) order by id) as r from t",
        "select id % (select max(id) from u) as g, median(id) as m from t group by 1",
    ],
)
def test_scalar_subqueries_are_known_to_all_stages_that_ask_for_them(cluster, query):
    check(cluster, query, is_cut=True)


def test_two_versions_of_a_frame_in_one_query_are_gathered(cluster):
    old = cluster.recipe("select id from t where id < 3")
    cluster.hold("t", pa.table({"id": [100, 200]}), rows_per_chunk=1)
    new = cluster.recipe("select id from t where id < 150")
    both = cluster.distributed.extend(lambda one, other: one.union(other), old, new)
    assert sorted(cluster.distributed.collect(both)["id"].to_pylist()) == [1, 2, 100]


# -- types -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris", "+05:30"])
def test_times_keep_their_zone_also_where_they_are_missing(cluster, zone):
    moments = pa.array([dt.datetime(2026, 7, 1, 12), None, dt.datetime(2026, 1, 1)], pa.timestamp("us", zone))
    cluster.hold("z", pa.table({"z": moments, "n": [1, 2, 3]}), rows_per_chunk=1)
    query = "select case when n = 1 then null else z end as a, z, date_part('hour', z) as h, max(z) over () as m from z"
    found = check(cluster, query, is_cut=True)
    assert found.schema.field("z").type == found.schema.field("a").type == pa.timestamp("us", zone)
    query = f"select arrow_cast(null, 'Timestamp(us, \"{zone}\")') as x, n from z"
    assert cluster.sql(query).schema.types == cluster.alone(query).schema.types


@pytest.mark.parametrize(
    "query",
    [
        "select id, arrow_cast(d, 'Timestamp(us)') at time zone 'Europe/Paris' as x from t",
        "select arrow_try_cast(d, 'Timestamp(us, \"Asia/Tokyo\")') as x, [tz, d::timestamp] as y from t",
        "select date_trunc('day', tz at time zone 'America/New_York') as x, count(*) as n from t group by 1",
        "select cast(tz at time zone 'Europe/Paris' as varchar) as x from t",
        "select to_char(tz, '%H') as x from t",
        "select id from t where to_local_time(tz) = tz",
        "select date_part('hour', coalesce(nullif(tz, tz), {noon})) as x from t",
    ],
)
def test_times_are_those_of_the_zone_they_are_cast_to(cluster, query):
    noon = "arrow_cast('2026-07-01T12:00:00', 'Timestamp(us, \"Asia/Tokyo\")')"
    check(cluster, query.format(noon=noon), is_cut=False)


@pytest.mark.parametrize("condition", ["tz > '2026-07-01T05:00:00'", "'2026-07-01T05:00:00' >= tz", "tz < now()"])
def test_times_with_a_zone_are_compared_where_they_are(cluster, condition):
    check(cluster, f"select id, date_part('hour', tz) as h from t where {condition}", is_cut=True)
    check(cluster, "select id, tz at time zone 'UTC' as x from t", is_cut=True)


@pytest.mark.parametrize("name", ["fixed list", "decimal32", "halffloat", "null", "run ends", "dense union", "tensor"])
def test_a_column_that_substrait_cannot_say_does_not_matter_where_it_is_not_read(make_cluster, name):
    cluster = make_cluster(3)
    table = pa.table({"n": [1, 2, 1, 2, 3], "c": COLUMNS[name], "s": ["a", None, "b", "a", "c"]})
    cluster.hold("t", table, rows_per_chunk=2)
    check(cluster, "select n, count(*) as r, min(s) as s from t group by n", is_cut=True)
    check(cluster, "select a.n from (select * from t) a join t b on a.s = b.s where b.n > 1", is_cut=True)
    explanation = cluster.explain("select n, c from t where s = 'a'")
    assert explanation.uncut
    assert explanation.moved_rows == 4  # not filtered where they are, but the chunk that can have no "a" stays


TYPE_QUERIES = {
    "all rows": "select n, c from t",
    "a filter": "select n, c from t where n > 1",
    "missing": "select n from t where c is null",
    "groups": "select c, count(*) as r, sum(n) as s from t group by c",
    "ranges": "select min(c) as a, max(c) as b from t",
    "kinds": "select count(distinct c) as d, count(c) as r from t",
    "a join": "select a.n, b.n as o, a.c from t a join t b on a.c = b.c",
    "an outer join": "select a.n, b.n as o, b.c from t a left join t b on a.c = b.c and b.n > 2",
    "a membership": "select n from t where c in (select c from t where n < 3)",
    "an absence": "select n from t where c not in (select c from t where n < 3 and c is not null)",
    "a window": "select n, c, row_number() over (partition by c order by n) as w from t",
    "an order": "select n, c from t order by c desc nulls last, n limit 4",
    "a union": "select c from t union select c from t where n > 1",
    "a median": "select c, median(n) as m from t group by c",
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"gather_bytes_max": 0}, pytest.param({}, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_any_type_are_read_as_on_one_node(make_cluster, name, options):
    """Where the engine alone refuses a type, so do the nodes."""
    column = COLUMNS[name]
    table = pa.table({"n": pa.array(range(len(column))), "c": column})
    cluster = make_cluster(3, **options)
    cluster.hold("t", table, rows_per_chunk=2)
    for kind, query in TYPE_QUERIES.items():
        if (name, kind) == ("dictionary with a missing word", "an absence"):
            continue  # the engine alone has a word that is missing as one that is there
        try:
            expected = cluster.alone(query)
        except QueryError:
            with pytest.raises(QueryError):
                cluster.sql(query)
            continue
        found = cluster.sql(query)
        assert found.schema.types == cluster.recipe(query).planned.schema().types, query
        assert difference(found, expected) == "", query


def test_what_reads_no_table_runs_at_the_caller(cluster):
    query = "with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select n from r"
    assert cluster.sql(query)["n"].to_pylist() == [1, 2, 3, 4, 5]
    assert cluster.explain(query).nodes == ()
    assert cluster.nodes.fragments == []


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("select * from t where id > ?", [3]),
        ("select k, $1 as x, sum(v) from t where d < $2 group by k order by k", ["it's", dt.date(2026, 1, 9)]),
        ("select t.id from t join full f on t.id = f.id where f.k = $k", {"k": "a"}),
        ("select id from t order by id limit $1 offset $2", [3, 2]),
    ],
)
def test_a_query_with_parameters_is_cut_as_one_with_literals(cluster, query, parameters):
    text, values = bound(query, parameters)
    recipe = cluster.distributed.sql(text, cluster.sources.get, None, values)
    found = cluster.distributed.collect(recipe)
    expected = cluster.engine.collect(cluster.engine.sql(text, cluster.whole.get, None, values))
    assert found.num_rows > 0
    assert difference(found, expected) == ""
    assert cluster.distributed.explain(recipe).uncut == ""
