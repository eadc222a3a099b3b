"""Parameters of queries: what is one and what only looks like it, and that values stay values."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from datafusion import SessionContext
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import QueryError
from eau2.query.engine_errors import check_query
from eau2.query.placeholders import PARAMETERS_MAX, bound, placeholders

# What the engine reads as one piece, with a question mark in it that is none, or as the placeholder that it is.
PIECES = [
    "?",
    "'?'",
    "'a''?'",
    "E'\\'?'",
    "e'?\\\\'",
    "'\\'",
    '"?"',
    '"a""?"',
    "`?`",
    "-- ?\n",
    "/* ? */",
    "/* a /* ? */ ? */",
    "/**/",
    "$$?$$",
    "$t$?$$ $t$",
    "a$b",
    "a",
    " e",
    " 1",
    "\n",
    " , ",
]


@pytest.fixture(scope="module")
def session():
    return SessionContext()


def said_by_engine(session, query):
    """How many placeholders the engine finds: it asks for the first that has no value."""
    count = 0
    while True:
        values = {str(number): pa.scalar(1) for number in range(1, count + 1)}
        try:
            session.sql(query, param_values={**values, "none": pa.scalar(1)})
        except Exception as error:
            if "No value found for placeholder" in str(error):
                count += 1
                continue
            return None
        return count


@given(st.lists(st.sampled_from(PIECES), max_size=6))
def test_what_is_a_parameter_is_what_the_engine_takes_for_one(session, pieces):
    query = "select [" + ", ".join(f"'x' || 'y' {piece}" if "?" not in piece else piece for piece in pieces) + "]"
    text, names = placeholders(query)
    found = said_by_engine(session, text)
    assert found in (None, len(names))  # None: no query at all


@pytest.mark.parametrize(
    "quoted", ["'?'", "'a''?'", "E'\\'?'", "'''?'''", "$$?$$", "$t$?$$ $t$", "'/* ?'", "'-- ?'", "'$1'"]
)
def test_a_text_with_a_question_mark_is_a_text(session, quoted):
    text, values = bound(f"select {quoted} as x, ? as y", [7])
    plain = session.sql(f"select {quoted} as x").to_pylist()[0]["x"]
    row = session.sql(text, param_values=values).to_pylist()[0]
    assert row == {"x": plain, "y": 7}


@pytest.mark.parametrize(
    "skipped", ['"?"', "`?`", "-- ?\n", "/* ? */", "/* a /* ? */ ? */", "/*/ ? */", "a$1", "'?", "/* ?", "$$ ?"]
)
def test_names_and_comments_have_no_parameters(skipped):
    assert placeholders(f"select {skipped}").names == ()


def test_parameters_are_told_apart_by_place_number_and_name():
    assert placeholders("select ?, ?,?") == ("select $1, $2,$3", ("1", "2", "3"))
    assert placeholders("select $2, $2, ?4").names == ("1", "2", "3", "4")
    assert placeholders("select $b, $a, $b").names == ("b", "a")
    for mixed in ("select ?, $1", "select $a, $1", "select ?, $a"):
        with pytest.raises(QueryError, match="mixes"):
            placeholders(mixed)
    for number in ("0", str(PARAMETERS_MAX + 1)):
        with pytest.raises(QueryError, match="numbered from 1 to"):
            placeholders(f"select ${number}")


def test_values_must_be_those_of_the_query():
    for query, given_values in [
        ("select ?", []),
        ("select ?", None),
        ("select 1", [1]),
        ("select $2", [1]),
        ("select $a", [1]),
        ("select $1", {"1": 1}),
        ("select $a", {"b": 1}),
        ("select $a", {"a": 1, "b": 2}),
        ("select ?", "a"),
        ("select ?", 1),
        ("select 1", {"a": 1}),
    ]:
        with pytest.raises(QueryError, match=r"parameter"):
            bound(query, given_values)
    with pytest.raises(QueryError, match=r"\$1"):
        bound("select ?", [object()])
    assert bound("select 1", None) == bound("select 1", []) == bound("select 1", {}) == ("select 1", {})


def test_many_quotes_that_do_not_end_take_no_long(subtests):
    for piece in ("'", '"', "`", "/*", "$a$", "$$", "E'", "E'\\", "'' ", "?", "$", "--", "*/"):
        with subtests.test(piece):
            query = piece * 200_000
            try:
                placeholders(query)
            except QueryError:
                assert piece == "?"
    distinct = "".join(f"$t{number}$" for number in range(100_000))
    assert placeholders(distinct).names == ()


VALUES = [
    None,
    True,
    2**63 - 1,
    -1.5,
    "it's; drop table t --",
    "?",
    b"\x00\xff",
    dt.date(2026, 1, 2),
    dt.datetime(2026, 1, 2, 3),
    dt.time(1),
    dt.timedelta(1),
    Decimal("1.50"),
    [1, None],
    {"a": 1},
    pa.scalar(3, pa.int8()),
    pa.scalar("x", pa.large_string()),
    pa.scalar(dt.datetime(2026, 1, 1), pa.timestamp("s", "Asia/Tokyo")),
    pa.array(["d"]).dictionary_encode()[0],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(session, value):
    text, values = bound("select ? as x", [value])
    answer = session.sql(text, param_values=values).to_arrow_table()["x"][0]
    assert answer.as_py() == (value.as_py() if isinstance(value, pa.Scalar) else value)


@pytest.mark.parametrize(
    "chain",
    [
        "select " + "interval " * 2000 + "'1'",
        "select 1 " + "is null " * 20_000,
        "select 1" + "::int" * 20_000,
        "select 1 " + "in (1, 2) " * 20_000,
        "select 1 " + "at time zone 'utc' " * 20_000,
        "select E'\\'', 1 " + "is null " * 20_000,
        "select /* /* */ ' */ 1 " + "is null " * 20_000,
        "select $$'$$, greatest(1, 2)" + "+ greatest(1, 2)" * 20_000,
    ],
    ids=lambda chain: chain[:30],
)
def test_a_query_that_would_overflow_the_stack_of_the_engine_is_refused(chain):
    with pytest.raises(QueryError, match="operators in a row"):
        check_query(chain)
    check_query("select " + "1 is null, " * 20_000 + "1")


@pytest.mark.parametrize(
    "word", ["cast(", "array[", "position(", "ceil(", "substring(", "not (", "TRY_CAST (", "cast(array["]
)
def test_what_the_parser_would_read_again_and_again_is_refused(word):
    with pytest.raises(QueryError, match="nests"):
        check_query("select " + word * 40 + "1")
    check_query("select " + ", ".join(["cast(ceil(a) as int), position('x' in s), array[1, 2]"] * 100))
    check_query("select '" + word * 40 + "'")
