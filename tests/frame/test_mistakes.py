"""Calls that cannot be right are answered with an error of eau2 that says what to do, and never with a crash."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import eau2
from eau2.errors import InvalidKey, InvalidOption, InvalidValue, QueryError, UnknownTable, WrongKind
from eau2.query.engine_errors import OPERATORS_MAX
from eau2.query.recipe import STEPS_MAX


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        store.put("t", {"a": [1, 2, None], "b c": ["x", "ü", None]})
        yield store


@pytest.fixture
def frame(store):
    return store.frame("t")


@pytest.mark.parametrize("value", [3, None, ["a"], lambda row: True])
def test_what_is_no_expression_is_refused_with_a_hint(frame, value):
    for verb in (frame.filter, frame.select, frame.sort):
        with pytest.raises(WrongKind, match="an expression or the name of a column") as refused:
            verb(value)
        assert refused.value.hint


def test_a_sort_by_nothing_is_refused(frame):
    with pytest.raises(QueryError, match="sort needs a column"):
        frame.sort()


@pytest.mark.parametrize("count", [-1, 2**63, 2**100, 1.5, "1", None, True])
def test_a_count_of_rows_that_is_none_is_refused(frame, count):
    for verb in (frame.limit, frame.head, frame.tail, lambda count: frame.limit(1, count)):
        with pytest.raises(InvalidOption, match="a number of rows is"):
            verb(count)


def test_numpy_integers_count_rows(frame):
    assert frame.limit(np.int64(2)).rows == frame.head(np.int64(2)).rows == 2


@pytest.mark.parametrize("row", ["x", 1.0, None])
def test_a_row_is_a_whole_number(frame, row):
    with pytest.raises(InvalidOption, match="row is a whole number"):
        frame.value("a", row=row)


def test_names_that_are_no_text_are_refused(frame):
    for call in (
        lambda: frame.rename({"a": 3}),
        lambda: frame.alias(3),
        lambda: frame.with_column(3, eau2.lit(1)),
        lambda: frame.join(frame, 3),
    ):
        with pytest.raises(WrongKind, match="text, not int"):
            call()


def test_columns_can_change_places(frame):
    swapped = frame.rename({"a": "b c", "b c": "a"}).to_arrow()
    assert swapped.column_names == ["b c", "a"]
    assert swapped["b c"].to_pylist() == [1, 2, None]


def test_a_column_is_an_array_for_numpy_and_no_truth_value(frame):
    assert np.asarray(frame["a"], dtype=float)[:2].tolist() == [1.0, 2.0]
    with pytest.raises(WrongKind, match="neither true nor false"):
        frame.filter(frame["a"] and frame["b c"])


def test_a_series_of_a_column_is_the_callers_own(frame):
    series = frame["a"].to_pandas()
    series.iloc[0] = 9
    assert frame["a"].to_pylist()[0] == 1


def test_a_frame_completes_its_columns(frame):
    assert frame._ipython_key_completions_() == ["a", "b c"]


def test_a_frame_without_columns_has_only_the_rows_it_has(store):
    store.put("none", {})
    store.put("three", pa.table({"a": [1, 2, 3]}).select([]))
    for key, rows in (("none", 0), ("three", 3)):
        frame = store.frame(key)
        assert frame.head(5).rows == frame.tail(5).rows == frame.rows == rows
        assert "\n" not in repr(frame).strip()
        assert frame._repr_html_().count("<tr></tr>") == 1 + rows


@pytest.mark.parametrize("query", [None, 3, b"select 1"])
def test_a_query_that_is_no_text_is_refused(store, query):
    with pytest.raises(QueryError, match="a query is text"):
        store.sql(query)


@pytest.mark.parametrize(
    "query",
    [
        "select " + "1+" * 20_000 + "1",
        "select * from t where " + " or ".join(f"a = {number}" for number in range(20_000)),
        " union all ".join(["select a from t"] * 20_000),
    ],
)
def test_a_query_too_deep_for_the_engines_stack_is_refused_and_the_process_lives(store, query):
    with pytest.raises(QueryError, match="operators in a row"):
        store.sql(query)


@pytest.mark.parametrize(
    "grown",
    [
        lambda value: ~value,
        pytest.param(lambda value: eau2.functions.abs(value), marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(lambda value: value.alias("x"), marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(lambda value: value + eau2.lit(1), marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(lambda value: eau2.lit(1) + value, marks=pytest.mark.slow),
        pytest.param(lambda value: value | (eau2.col("a") == eau2.lit(1)), marks=pytest.mark.slow),
    ],
    ids=["not", "abs", "alias", "sum", "sum to the right", "or"],
)
def test_an_expression_too_deep_for_the_engines_stack_is_refused(frame, grown):
    value = eau2.col("a")
    for _ in range(OPERATORS_MAX):
        value = grown(value)
    for verb in (
        frame.filter,
        frame.select,
        lambda value: frame.with_column("b", value),
        lambda value: frame.aggregate([], [eau2.functions.sum(value)]),
        lambda value: frame.sort(value.sort()),
        lambda value: frame.alias("l").join_on(frame.alias("r"), value),
    ):
        with pytest.raises(QueryError, match="2,000 operators within one another"):
            verb(value)


@pytest.mark.slow
def test_an_expression_of_many_operands_that_is_not_deep_runs(frame):
    values = [eau2.lit(number) for number in range(2, 3000)]
    assert frame.filter(eau2.functions.in_list(eau2.col("a"), values)).rows == 1
    deep = eau2.col("a")
    for _ in range(300):
        deep = deep + eau2.lit(1)
    assert frame.select(deep.alias("a"))["a"].to_pylist() == [301, 302, None]


def test_a_frame_made_in_so_many_steps_that_the_engines_stack_would_overflow_is_refused(frame):
    for _ in range(STEPS_MAX):
        frame = frame.limit(2)
    assert frame.rows == 2
    for verb in (lambda: frame.limit(2), lambda: frame.union(frame), lambda: frame.head(1).union(frame)):
        with pytest.raises(QueryError, match="in over 1,000 steps"):
            verb()


def test_a_frame_of_many_steps_is_built_again_over_the_chunks_it_needs(tables):
    frame = tables.hold("t", pa.table({"a": range(1000)}), rows_per_chunk=100)
    kept = frame.filter(eau2.col("a") > eau2.lit(997))
    for _ in range(STEPS_MAX - 1):
        kept = kept.limit(10)
    assert kept.to_arrow()["a"].to_pylist() == [998, 999]
    assert kept.explain().chunks_read == 1


def test_a_long_query_that_is_not_deep_runs(store):
    columns = ", ".join(f"a + {number} as c{number}" for number in range(1000))
    assert store.sql(f"select {columns} from t").to_arrow().num_columns == 1000
    minus = ", ".join(f"-{number}" for number in range(5000))
    assert store.sql(f"select a from t where a in (1, {minus}) or 'x' = '{'-+' * 5000}'").rows == 1


def test_the_hint_for_an_unknown_table_names_frames_only(store):
    store.put("trip.bytes", b"x")
    for query, hint in (("select * from trap", "the store has t"), ('select * from "trip.bytes"', "the store has t")):
        with pytest.raises(UnknownTable) as refused:
            store.sql(query)
        assert refused.value.hint == hint
    store.delete("t")
    with pytest.raises(UnknownTable) as refused:
        store.sql("select * from trip")
    assert refused.value.hint == "the store has no frames"


def test_a_pandas_frame_with_one_name_twice_is_refused(store):
    with pytest.raises(InvalidValue, match="Duplicate column names"):
        store.put("p", pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_columns_nested_deeper_than_a_file_takes_are_refused(store):
    type_, value = pa.int64(), 1
    for _ in range(80):
        type_, value = pa.list_(type_), [value]
    with pytest.raises(InvalidValue, match="nested"):
        store.put("deep", pa.table({"a": pa.array([value], type_)}))
    assert not store.exists("deep")


def test_arguments_of_the_wrong_type_are_named(store, tmp_path):
    for path in (None, 3, "", "a\0b"):
        for verb in (store.put_file, store.get_file, store.load):
            with pytest.raises(InvalidOption, match="a path is text"):
                verb("t", path)
    for keys in (None, 3, "abc"):
        for verb in (store.get_many, store.delete_many):
            with pytest.raises(InvalidKey, match="a list of keys"):
                verb(keys)
    for values in (None, [("a", b"")]):
        with pytest.raises(InvalidValue, match="put_many takes a dict"):
            store.put_many(values)
    for seconds in (-1, float("nan"), "1", None):
        with pytest.raises(InvalidOption, match="timeout_seconds"):
            store.wait("t", timeout_seconds=seconds)
    with pytest.raises(InvalidKey, match="lone surrogate"):
        store.keys("\ud800")
    for byte_range in (3, (1,), ("a", "b"), (2, 1)):
        with pytest.raises(InvalidOption, match="is no range"):
            store.load("t", tmp_path / "x.sor", byte_range=byte_range)
    with pytest.raises(InvalidOption, match="there is no format"):
        store.load("t", tmp_path / "x.sor", format=3)


@pytest.mark.parametrize("seconds", ["1", 0, -1, float("nan")])
def test_a_map_is_given_seconds_above_zero(frame, seconds):
    with pytest.raises(InvalidOption, match="timeout_seconds is"):
        frame.map_chunks(len, timeout_seconds=seconds)


def test_a_function_that_did_not_end_in_time_does_not_keep_the_process(store, tmp_path):
    code = (
        "import eau2, time\n"
        f"frame = eau2.open({str(tmp_path / 'store')!r}).frame('t')\n"
        "try:\n"
        "    frame.map_chunks(lambda table: time.sleep(600), timeout_seconds=0.2)\n"
        "except eau2.WaitTimeout:\n"
        "    print('late')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "late\n"
    assert done.stderr == ""


def test_a_store_says_how_another_process_gets_at_it(store):
    with pytest.raises(WrongKind, match="not pickled") as refused:
        pickle.dumps(store)
    assert "open it in the other process" in refused.value.hint


@pytest.mark.parametrize("text", [b"null\n", b" null\n", b"null\nnull\n", b'{"a": 1}\nnull\n'])
def test_a_line_of_null_is_a_bad_line_and_no_crash(store, tmp_path, text):
    (tmp_path / "f.ndjson").write_bytes(text)
    report = store.load("l", tmp_path / "f.ndjson")
    assert report.lines == text.count(b"\n")
    assert report.bad == text.count(b"null")
    assert {line.reason for line in report.rejects} == {"not a JSON object"}


@pytest.mark.parametrize("row", [3, 290_000])
@pytest.mark.parametrize("schema", [None, {"x": "FLOAT"}])
def test_putting_a_query_that_fails_raises_its_own_error(store, row, schema):
    store.put("n", {"a": np.arange(300_000)})
    with pytest.raises(QueryError, match="Divide by zero"):
        store.put("d", store.sql(f"select 10/(a-{row}) as x from n"), schema=schema)
    assert not store.exists("d")
    store.put("d", store.sql("select a as x from n where a < 2"), schema=schema)
    assert store.get("d").to_arrow()["x"].to_pylist() == [0, 1]
