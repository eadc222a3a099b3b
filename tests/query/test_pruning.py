"""Chunks that hold no row of the answer are not read, and no other chunk is ever skipped."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eau2.query.source import unnamed

if TYPE_CHECKING:
    from eau2.query.engine import Engine

UTC = dt.UTC
FLOATS = [float("nan"), -float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.5, -2.25, 1e300, 5e-324, 3.0]
TEXTS = ["", "a", "ab", "abc", "a%", "a_", "é", "zz", "Z", "\U0010ffff", "x" * 70, "x" * 69 + "y"]


def sorted_table(rows=1000):
    return pa.table({"id": np.arange(rows), "name": [f"n{i:04d}" for i in range(rows)]})


def chunks_read(frame):
    return frame.explain().chunks_read


def test_a_query_for_one_id_of_sorted_data_reads_one_chunk(tables):
    tables.hold("t", sorted_table(), rows_per_chunk=100)
    answer = tables.sql("select name from t where id = 742")
    before = tables.engine.statistics()
    assert answer.to_arrow().to_pydict() == {"name": ["n0742"]}
    after = tables.engine.statistics()
    assert (after.chunks_read - before.chunks_read, after.chunks_skipped - before.chunks_skipped) == (1, 9)
    assert (answer.explain().chunks_read, answer.explain().chunks) == (1, 10)


def test_conditions_nested_deeper_than_python_recurses_are_not_looked_at(tables):
    tables.hold("t", sorted_table(), rows_per_chunk=100)
    condition = " or ".join(f"name like '{term}%'" for term in range(600))
    assert tables.sql(f"select id from t where {condition} or id = 7").to_arrow()["id"].to_pylist() == [7]


@pytest.mark.parametrize(
    "query", ["select count(*) as n from t where at <= now()", "select * from t where at <= now()"]
)
def test_a_query_that_asks_for_the_time_is_of_one_time(tables, query):
    """It was planned before, when fewer chunks had rows of the answer."""
    moment, seconds = dt.datetime.now(UTC), 0.25
    while dt.datetime.now(UTC) >= moment:  # it has taken longer to plan it
        seconds *= 2
        moment = dt.datetime.now(UTC) + dt.timedelta(seconds=seconds)
        times = [dt.datetime(2020, 1, 1)] * 3 + [moment.replace(tzinfo=None)] * 3 + [dt.datetime(2100, 1, 1)] * 2
        tables.hold("t", pa.table({"at": pa.array(times, pa.timestamp("us"))}), rows_per_chunk=2)
        frame = tables.sql(query)
        read = chunks_read(frame)
    assert read == 2
    time.sleep(seconds + 0.1)
    found = frame.to_arrow()
    assert (found["n"][0].as_py() if "count" in query else found.num_rows) in (3, 6)


def test_a_query_for_the_latest_rows_reads_few_chunks(tables):
    today = dt.datetime.now(UTC).replace(tzinfo=None)
    times = [today - dt.timedelta(hours=hours) for hours in reversed(range(100))]
    tables.hold("t", pa.table({"at": pa.array(times, pa.timestamp("us"))}), rows_per_chunk=10)
    before = tables.engine.statistics()
    assert tables.sql("select at from t where at > now() - interval '150 minutes'").to_arrow().num_rows == 3
    assert tables.engine.statistics().chunks_read - before.chunks_read == 1


def test_a_query_for_a_value_that_every_chunk_may_have_reads_them_all(tables):
    keys = np.random.default_rng(1).integers(0, 50, 1000)
    tables.hold("t", pa.table({"k": keys}), rows_per_chunk=100)
    assert chunks_read(tables.sql("select * from t where k = 25")) == 10


@pytest.mark.parametrize(
    ("predicate", "chunks"),
    [
        ("id = 5", 1),
        ("5 = id", 1),
        ("id <> 5", 10),
        ("id < 100", 1),
        ("id <= 100", 2),
        ("id > 899", 1),
        ("100 > id", 1),
        ("id >= 899", 2),
        ("id between 150 and 250", 2),
        ("id not between 0 and 949", 1),
        ("id in (1, 101, 999)", 3),
        ("id in (1, 2, 3, 4, 5, 6, 7)", 1),
        ("id < 100 or id > 899", 2),
        ("id > 100 and id < 100", 0),
        ("not (id < 900)", 1),
        ("name = 'n0123'", 1),
        ("name like 'n012%'", 1),
        ("name like 'n01_3'", 1),
        ("name like '%3'", 10),
        ("name ilike 'N0123'", 10),
        ("id is null", 0),
        ("id is not null", 10),
        ("cast(id as double) < 99.5", 1),
        ("id = 5 and name like '%'", 1),
        ("id + 1 = 5", 10),
        ("random() < 2 and id = 5", 1),
        ("id = 5 or random() < 2", 10),
        ("id = 5000", 0),
    ],
)
def test_as_few_chunks_are_read_as_the_ranges_allow(tables, predicate, chunks):
    tables.hold("t", sorted_table(), rows_per_chunk=100)
    query = tables.sql(f"select * from t where {predicate}")
    assert chunks_read(query) == chunks
    query.to_arrow()


def test_a_table_that_is_read_twice_keeps_what_either_reading_needs(tables):
    tables.hold("t", sorted_table(), rows_per_chunk=100)
    query = tables.sql("select count(*) as n from t a, t b where a.id = 5 and b.id = 995")
    assert chunks_read(query) == 2
    assert query.to_arrow()["n"][0].as_py() == 1
    union = tables.sql("select id from t where id = 5 union all select id from t")
    assert chunks_read(union) == 10
    assert union.rows == 1001


def test_a_table_inside_a_subquery_of_an_expression_is_read_whole(tables):
    tables.hold("t", sorted_table(), rows_per_chunk=100)
    query = tables.sql("select id, (select max(id) from t) as most from t where id = 5")
    assert query.to_arrow().to_pydict() == {"id": [5], "most": [999]}


def test_the_filter_of_an_outer_join_does_not_skip_rows_of_the_other_side(tables):
    tables.hold("t", sorted_table(), rows_per_chunk=100)
    query = tables.sql("select a.id from t a left join t b on a.id = b.id and b.id = 5")
    assert query.rows == 1000
    assert tables.sql("select a.id from t a left join t b on a.id = b.id where b.id = 5").rows == 1


def test_two_versions_of_a_key_in_one_query_are_not_mixed_up(tables):
    old = tables.hold("t", sorted_table(), rows_per_chunk=100)
    new = tables.hold("t", pa.table({"id": np.arange(1000, 2000)}), rows_per_chunk=100)
    both = old.select("id").filter("id = 5").union(new.filter("id = 1500"))
    assert sorted(both.to_arrow()["id"].to_pylist()) == [5, 1500]


def test_a_chunk_of_nulls_is_read_only_for_nulls(tables):
    tables.hold("t", pa.table({"x": pa.array([None] * 100 + list(range(100)), pa.int64())}), rows_per_chunk=100)
    assert chunks_read(tables.sql("select * from t where x >= 0")) == 1
    assert tables.sql("select * from t where x is null").rows == 100
    assert chunks_read(tables.sql("select * from t where x is null")) == 1


@pytest.mark.parametrize(
    "column",
    [
        pa.DictionaryArray.from_arrays(pa.array([0, 1] * 4), pa.array(["x", None])),
        pa.RunEndEncodedArray.from_arrays(pa.array([3, 5, 8]), pa.array([1, None, 2])),
    ],
    ids=["dictionary", "run ends"],
)
def test_nulls_that_arrow_does_not_count_are_found(tables, column):
    tables.hold("t", pa.table({"id": np.arange(8), "v": column}), rows_per_chunk=4)
    nulls = [number for number, value in enumerate(column.to_pylist()) if value is None]
    assert tables.sql("select id from t where v is null order by id").to_arrow()["id"].to_pylist() == nulls
    left = [number for number in range(8) if number not in nulls]
    assert tables.sql("select id from t where v is not null order by id").to_arrow()["id"].to_pylist() == left


def test_nan_of_either_sign_is_found_where_the_engine_puts_it(tables):
    values = [[1.0, float("nan")], [1.0, np.copysign(float("nan"), -1)], [1.0, 2.0]]
    tables.hold("t", pa.table({"f": pa.array(np.array(values).ravel())}), rows_per_chunk=2)
    for predicate in ("f > 1e308", "f < -1e308", "f = cast('nan' as double)", "isnan(f)"):
        whole = tables.sql(f"select f from (select f, random() as r from t) where r < 2 and {predicate}").rows
        assert tables.sql(f"select f from t where {predicate}").rows == whole


# -- any predicate over any data: the same answer as without skipping -------------------------------------------------

SCHEMA = pa.schema(
    {
        "i": pa.int64(),
        "u": pa.uint8(),
        "f": pa.float64(),
        "g": pa.float32(),
        "s": pa.string(),
        "l": pa.large_string(),
        "b": pa.bool_(),
        "d": pa.date32(),
        "ts": pa.timestamp("us"),
        "tz": pa.timestamp("ms", "Europe/Paris"),
        "m": pa.decimal128(12, 2),
        "y": pa.binary(),
        "e": pa.dictionary(pa.int32(), pa.string()),
    }
)
MOMENTS = [dt.datetime(2026, 10, 25, 0, minute) for minute in (0, 30, 59)] + [dt.datetime(1969, 12, 31, 23, 59, 59)]
VALUES = {
    "i": st.integers(-5, 5) | st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1]),
    "u": st.integers(0, 255),
    "f": st.sampled_from(FLOATS),
    "g": st.sampled_from([float("nan"), 0.0, -0.0, 1.5, -2.25, 0.1]),
    "s": st.sampled_from(TEXTS),
    "l": st.sampled_from(TEXTS),
    "b": st.booleans(),
    "d": st.dates(dt.date(2026, 10, 20), dt.date(2026, 10, 30)),
    "ts": st.sampled_from(MOMENTS),
    "tz": st.sampled_from([moment.replace(tzinfo=UTC) for moment in MOMENTS]),
    "m": st.decimals(-3, 3, places=2),
    "y": st.sampled_from([b"", b"a", b"\xff", b"ab"]),
    "e": st.sampled_from(["a", "b"]),
}


def text_of(value):
    quote = str(value).replace("'", "''")
    return f"'{quote}'"


def literal(column, value):
    if value is None:
        return "null"
    if column in ("f", "g"):
        return f"cast('{value}' as double)"
    if column == "d":
        return f"date '{value}'"
    if column in ("ts", "tz"):
        return f"timestamp '{value.isoformat()}'"
    if column == "y":
        return f"x'{value.hex()}'"
    if column in ("s", "l", "e"):
        return text_of(value)
    return str(value).lower()


@st.composite
def comparisons(draw):
    column = draw(st.sampled_from(sorted(VALUES)))
    value = VALUES[column].map(lambda found: literal(column, found))
    kind = draw(st.sampled_from(["compare", "compare", "compare", "between", "in", "null", "like", "cast", "sum"]))
    op = draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "is distinct from"]))
    no = draw(st.sampled_from(["", "not "]))
    if kind == "between":
        return f"{column} {no}between {draw(value)} and {draw(value)}"
    if kind == "in":
        return f"{column} {no}in ({', '.join(draw(st.lists(value, min_size=1, max_size=6)))})"
    if kind == "null":
        return f"{column} is {no}null"
    if kind == "like":
        pattern = draw(st.sampled_from(TEXTS)) + draw(st.sampled_from(["%", "_", "", "%b", "\\%"]))
        word = draw(st.sampled_from(["like", "ilike"]))
        return f"{draw(st.sampled_from(['s', 'l']))} {no}{word} {text_of(pattern)}"
    if kind == "cast":
        subject, target, other = draw(
            st.sampled_from(
                [
                    ("i", "double", "1.5"),
                    ("u", "bigint", "100"),
                    ("g", "double", "0.1"),
                    ("d", "timestamp", "timestamp '2026-10-25T12:00:00'"),
                    ("ts", "date", "date '2026-10-25'"),
                    ("ts", "timestamp(0)", "timestamp '2026-10-25T00:30:00'"),
                    ("tz", "timestamp", "timestamp '2026-10-25T02:30:00'"),
                    ("m", "decimal(20, 4)", "1.2345"),
                    ("m", "double", "0.1"),
                    ("i", "decimal(30, 2)", "1.5"),
                    ("s", "binary", "x'61'"),
                    ("b", "int", "1"),
                ]
            )
        )
        return f"cast({subject} as {target}) {op} {other}"
    if kind == "sum":
        return f"{draw(st.sampled_from(['u + 1', 'f * 2', '-u', 'm + 1', 'abs(f)']))} {op} {draw(st.integers(-2, 2))}"
    return draw(st.sampled_from([f"{column} {op} {draw(value)}", f"{draw(value)} {op} {column}"]))


predicates = st.recursive(
    comparisons() | st.sampled_from(["b", "not b", "b is true", "true", "false"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda each: f"not ({each})"),
    ),
    max_leaves=5,
)
rows = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), min_size=1, max_size=8
)


@pytest.mark.slow
@settings(max_examples=300)
@given(rows, st.integers(1, 3), predicates)
@example([{**dict.fromkeys(VALUES), "f": -0.0}, {**dict.fromkeys(VALUES), "f": 1.0}], 1, "f < cast('0.0' as double)")
@example([{**dict.fromkeys(VALUES), "s": "x" * 70}, dict.fromkeys(VALUES)], 1, f"s = '{'x' * 70}'")
def test_no_predicate_loses_a_row_to_skipping(shared_engine: Engine, data, rows_per_chunk, predicate):
    table = pa.Table.from_pylist([{"n": number, **row} for number, row in enumerate(data)], _numbered())
    whole = unnamed(table.schema, [table])
    parts = unnamed(table.schema, [table.slice(at, rows_per_chunk) for at in range(0, len(data), rows_per_chunk)])
    outcomes = []
    for source in (whole, parts):
        try:
            recipe = shared_engine.sql(f"select n from t where {predicate}", {"t": source}.get)
            outcomes.append(sorted(shared_engine.collect(recipe)["n"].to_pylist()))
        except ValueError as error:
            outcomes.append(type(error))
    if isinstance(outcomes[0], list):  # a query that fails on some row may succeed when that row's chunk is skipped
        assert outcomes[0] == outcomes[1]


def _numbered():
    return pa.schema([pa.field("n", pa.int64()), *SCHEMA])


@pytest.mark.slow
def test_most_random_predicates_are_queries_the_engine_takes(shared_engine: Engine):
    """The property above would hold of nothing but refused queries, too."""
    taken = []

    @settings(max_examples=100, database=None)
    @given(predicates)
    def count(predicate):
        source = unnamed(_numbered(), [])
        try:
            shared_engine.collect(shared_engine.sql(f"select n from t where {predicate}", {"t": source}.get))
            taken.append(True)
        except ValueError:
            taken.append(False)

    count()
    assert sum(taken) > len(taken) * 0.6


def test_decimals_and_times_with_zone_are_skipped_by_too(tables):
    start = dt.datetime(2026, 1, 1, tzinfo=UTC)
    table = pa.table(
        {
            "m": pa.array([Decimal(i) / 4 for i in range(100)], pa.decimal128(10, 2)),
            "tz": pa.array([start + dt.timedelta(days=i) for i in range(100)], pa.timestamp("us", "UTC")),
            "d": pa.array([dt.date(2026, 1, 1) + dt.timedelta(days=i) for i in range(100)]),
        }
    )
    tables.hold("t", table, rows_per_chunk=10)
    assert chunks_read(tables.sql("select * from t where m = 5.25")) == 1
    assert chunks_read(tables.sql("select * from t where tz < timestamp '2026-01-05'")) == 1
    assert chunks_read(tables.sql("select * from t where d between date '2026-02-01' and date '2026-02-02'")) == 1
