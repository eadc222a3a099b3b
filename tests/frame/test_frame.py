"""What a user holds of a table: its shape, its rows without a copy, its looks, and lazy frames made of it."""

from __future__ import annotations

import copy
import pickle
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import Corrupt, InvalidOption, QueryError, UnknownColumn, WrongKind
from eau2.frame.frame import Frame
from eau2.query.source import Source, unnamed
from eau2.store.nodes import MappedFrame

if TYPE_CHECKING:
    from eau2.query.engine import Engine


def trips():
    return pa.table(
        {
            "id": np.arange(10),
            "Fare": np.arange(10) / 4,
            "vendor": pa.array(["a", "b", None, "a", "b", "a", "a", "b", "c", None]),
        }
    )


@pytest.fixture
def frame(tables):
    return tables.hold("trips", trips(), rows_per_chunk=4)


@pytest.fixture
def engine_parts():
    import datafusion

    return datafusion.col, datafusion.lit, datafusion.functions


# -- what it is -------------------------------------------------------------------------------------------------------


def test_a_stored_frame_knows_its_shape_without_reading(frame):
    assert (frame.key, frame.version, frame.rows, frame.chunks) == ("trips", 1, 10, 3)
    assert frame.schema == trips().schema
    assert frame.columns == ["id", "Fare", "vendor"]
    assert frame.bytes == sum(buffer.size for buffer in frame.source.buffers)
    assert frame.source._decoded == {}


def test_a_derived_frame_has_no_key_version_or_chunks_and_counts_its_rows_once(tables, frame):
    answer = frame.filter("id > 3")
    assert (answer.key, answer.version, answer.chunks, answer.bytes) == (None, None, 0, 0)
    before = tables.engine.statistics().queries
    assert (answer.rows, answer.rows) == (6, 6)
    assert tables.engine.statistics().queries == before + 1


def test_a_small_answer_is_kept_and_a_large_one_is_not(tables):
    small = tables.hold("small", trips()).filter("id > 3")
    assert small.to_arrow() is small.to_arrow()
    assert small.rows == 6
    large = tables.hold("large", pa.table({"x": np.arange(3_000_000)})).filter("x >= 0")
    assert large.to_arrow() is not large.to_arrow()


def test_equal_looking_frames_are_not_iterated_measured_or_pickled(frame):
    with pytest.raises(WrongKind, match="batches"):
        iter(frame)
    with pytest.raises(TypeError):
        len(frame)
    with pytest.raises(WrongKind, match="key"):
        pickle.dumps(frame)
    with pytest.raises(WrongKind):
        copy.deepcopy(frame)
    assert bool(frame)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_to_arrow_gives_views_that_cannot_be_written(frame):
    table = frame.to_arrow()
    assert table.equals(trips())
    for column, chunks in zip(table.columns, (3, 3, 3), strict=True):
        assert column.num_chunks == chunks
        for array in column.chunks:
            for buffer in array.buffers():
                assert buffer is None or not buffer.is_mutable
    ids = table["id"].chunk(1)
    first, last = frame.source.buffers[1].address, frame.source.buffers[1].address + frame.source.buffers[1].size
    assert first <= ids.buffers()[1].address < last
    with pytest.raises(ValueError, match="read-only"):
        ids.to_numpy()[0] = 5


@pytest.mark.slow
def test_reading_a_large_frame_takes_no_time_beside_touching_it(tables, tmp_path):
    part = pa.table({f"c{i}": np.zeros(1 << 20) for i in range(8)})  # 64 MiB
    source = unnamed(part.schema, [part] * 16, folder=str(tmp_path))
    ratios = []  # one after the other, so that whatever else runs here slows both
    for _ in range(5):
        again = Source("t", 1, source.manifest, source.mapped, None)
        start = time.perf_counter()
        table = Frame.stored(again, tables.engine).to_arrow()
        read = time.perf_counter()
        assert table.nbytes == 1 << 30
        assert [pc.sum(column).as_py() for column in table.columns] == [0] * 8
        ratios.append((read - start) / (time.perf_counter() - read))
    assert sorted(ratios)[2] < 0.1


@pytest.mark.parametrize("names", [["id"], ["id", "Fare"], ["vendor"], ["id", "Fare", "vendor"]])
@pytest.mark.parametrize("rows_per_chunk", [4, 100])
def test_a_pandas_frame_may_be_written_to_and_the_stored_one_stays(tables, names, rows_per_chunk):
    frame = tables.hold("t", trips().select(names), rows_per_chunk=rows_per_chunk)
    for source in (frame, frame.select(*names)):
        mine = source.to_pandas()
        assert isinstance(mine, pd.DataFrame)
        for name in names:
            mine.loc[0, name] = mine[name].iloc[1]
            mine[name] = mine[name].iloc[::-1].to_numpy()
        assert source.to_arrow().equals(trips().select(names))


def test_polars_and_whoever_takes_a_stream_get_the_rows(frame):
    assert frame.to_polars().equals(pl.from_arrow(trips()))
    assert pl.DataFrame(frame).equals(pl.from_arrow(trips()))
    assert pa.table(frame).equals(trips())
    assert pa.table(frame.filter("id >= 0")).equals(trips())
    assert pa.table(frame.filter("id < 0")).equals(trips().slice(0, 0))
    assert pa.schema(frame) == trips().schema
    reader = pa.RecordBatchReader.from_stream(frame.sort("id"))
    assert reader.read_all()["id"].to_pylist() == list(range(10))


def test_batches_are_the_chunks_in_order(frame):
    assert [batch.num_rows for batch in frame.batches()] == [4, 4, 2]
    assert pa.Table.from_batches(frame.batches()).equals(trips())


def test_a_cell_is_read_from_its_chunk_only(frame):
    assert frame.value("Fare", row=5) == 1.25
    assert sorted(frame.source._decoded) == [1]
    assert frame.value("vendor", row=np.int64(9)) is None
    assert sorted(frame.source._decoded) == [1, 2]
    assert [frame.value("id", row=row) for row in range(10)] == list(range(10))
    assert frame.filter("id > 3").value("id", row=0) == 4


@pytest.mark.parametrize("row", [-1, 10, 1 << 40])
def test_a_row_that_is_not_there_is_refused(frame, row):
    with pytest.raises(InvalidOption, match="0 to 9"):
        frame.value("id", row=row)


def test_head_and_tail_are_frames(frame):
    assert frame.head(2).to_arrow().equals(trips().slice(0, 2))
    assert frame.tail(3).to_arrow()["id"].to_pylist() == [7, 8, 9]
    assert frame.filter("id > 5").head().to_arrow()["id"].to_pylist() == [6, 7, 8, 9]
    assert frame.head(0).rows == 0
    assert frame.head(100).rows == 10
    with pytest.raises(InvalidOption):
        frame.head(-1)


def test_describe_has_a_row_a_column(frame):
    found = {row["column"]: row for row in frame.describe().to_pylist()}
    assert found["id"]["least"] == "0"
    assert found["id"]["most"] == "9"
    assert found["id"]["mean"] == 4.5
    assert (found["vendor"]["values"], found["vendor"]["nulls"]) == (8, 2)
    assert found["vendor"]["mean"] is None
    assert found["Fare"]["deviation"] == pytest.approx(np.std(np.arange(10) / 4, ddof=1))


def test_a_damaged_chunk_is_found_before_a_row_of_it_is_given(tables):
    class Damaged:
        jobs = None

        def verify(self, chunk_ids, data, *, key="", places=()):
            raise Corrupt(f"{key}: {next(iter(chunk_ids))} changed")

        def map_frame(self, manifest, *, key=""):
            raise Corrupt(f"{key}: its only copy changed")

    source = tables.hold("t", trips()).source
    frame = Frame.stored(Source("t", 1, source.manifest, source.mapped, Damaged()), tables.engine)
    query = frame.filter("id > 3")
    for read in (
        frame.to_arrow,
        frame.to_pandas,
        frame.batches,
        frame["id"].to_arrow,
        query.to_arrow,
        lambda: query.rows,
        lambda: list(query.batches()),
        lambda: frame.value("id", row=0),
        lambda: frame.map_chunks(len),
        frame.head,
    ):
        with pytest.raises(Corrupt, match="changed"):
            read()


def test_a_chunk_that_is_no_arrow_file_is_corrupt(tables):
    source = tables.hold("t", trips()).source
    frame = Frame.stored(
        Source("t", 1, source.manifest, MappedFrame([pa.py_buffer(b"junk" * 100)]), None), tables.engine
    )
    with pytest.raises(Corrupt, match=source.manifest.chunk_ids[0]):
        frame.to_arrow()


# -- columns ----------------------------------------------------------------------------------------------------------


def test_a_column_is_read_without_the_others(frame):
    fare = frame["Fare"]
    assert (fare.name, fare.type) == ("Fare", pa.float64())
    assert fare.to_arrow().equals(trips()["Fare"])
    assert fare.to_numpy().tolist() == trips()["Fare"].to_pylist()
    assert fare.to_pylist() == trips()["Fare"].to_pylist()
    assert fare.to_pandas().name == "Fare"
    assert fare.to_polars().sum() == sum(range(10)) / 4
    assert pa.chunked_array(fare).equals(trips()["Fare"])
    assert frame.filter("id > 7")["vendor"].to_pylist() == ["c", None]
    assert repr(fare) == "<Column 'Fare': double of Frame trips v1>"
    with pytest.raises(TypeError, match="to_pylist"):
        iter(fare)


def test_a_column_of_one_chunk_is_a_view_that_cannot_be_written(tables):
    values = tables.hold("t", trips())["id"].to_numpy()
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_a_column_is_an_expression(frame, engine_parts):
    _, lit, functions = engine_parts
    fare, number = frame["Fare"], frame["id"]
    assert frame.filter(fare > 1, number < 8).to_arrow()["id"].to_pylist() == [5, 6, 7]
    assert frame.filter((fare == 1) | (number == 9)).to_arrow()["id"].to_pylist() == [4, 9]
    assert frame.filter(~(number != 3)).rows == 1
    assert frame.filter(frame["vendor"].is_null()).rows == 2
    assert frame.select((10 - number).alias("x")).to_arrow()["x"].to_pylist()[:3] == [10, 9, 8]
    assert frame.aggregate([], functions.sum(fare)).to_arrow().column(0)[0].as_py() == 11.25
    assert frame.sort(number.sort(ascending=False)).head(1).value("id", row=0) == 9
    assert frame.with_column("one", lit(1)).columns[-1] == "one"


def test_unknown_columns_are_named_with_those_near(frame, engine_parts):
    col, _, _ = engine_parts
    for ask in (
        lambda: frame["fare"],
        lambda: frame.select("fare"),
        lambda: frame.select(col("fare")),
        lambda: frame.filter("fare > 1"),
        lambda: frame.sort("fare"),
        lambda: frame.drop("fare"),
        lambda: frame.rename({"fare": "x"}),
        lambda: frame.value("fare", row=0),
        lambda: frame.join(frame, on="fare"),
        lambda: frame.aggregate("fare", []),
    ):
        with pytest.raises(UnknownColumn, match='did you mean "Fare"'):
            ask()
    with pytest.raises(WrongKind, match="names of columns"):
        frame[0]


# -- lazy frames ------------------------------------------------------------------------------------------------------


def test_each_verb_does_what_the_engine_does(frame, engine_parts):
    col, lit, functions = engine_parts
    assert frame.select("vendor", "Fare").columns == ["vendor", "Fare"]
    assert frame[["Fare"]].columns == ["Fare"]
    groups = frame.aggregate("vendor", [functions.count(lit(1)).alias("n")]).sort("vendor").to_arrow()
    assert groups.to_pydict() == {"vendor": ["a", "b", "c", None], "n": [4, 3, 1, 2]}
    assert frame.sort(col("id").sort(ascending=False)).limit(2, offset=1).to_arrow()["id"].to_pylist() == [8, 7]
    assert frame.select("vendor").distinct().rows == 4
    assert frame.with_column("Fare", col("id") * 2).to_arrow()["Fare"].to_pylist()[3] == 6
    assert frame.with_columns((col("id") + 1).alias("a"), B="Fare").columns == ["id", "Fare", "vendor", "a", "B"]
    assert frame.drop("Fare").columns == ["id", "vendor"]
    assert frame.rename({"Fare": "fare", "id": "a b"}).columns == ["a b", "fare", "vendor"]
    assert frame.with_column_renamed("Fare", "X").columns == ["id", "X", "vendor"]
    assert frame.union(frame).rows == 20
    assert frame.union(frame, distinct=True).rows == 10
    assert frame.intersect(frame.filter("id > 7")).rows == 2
    assert frame.except_all(frame.filter("id > 7")).rows == 8


def test_frames_are_joined_with_others_and_with_themselves(tables, frame, engine_parts):
    names = tables.hold("Names", pa.table({"vendor": ["a", "b"], "Title": ["A", "B"]}))
    joined = frame.join(names, on="vendor")
    assert joined.columns == ["id", "Fare", "vendor", "Title"]
    assert joined.rows == 7
    assert frame.join(names, on="vendor", how="left").rows == 10
    assert frame.join(names, on="vendor", how="anti").rows == 3
    other = names.rename({"vendor": "v"})
    assert frame.join(other, left_on="vendor", right_on="v").rows == 7
    assert frame.join(other, left_on="vendor", right_on="v").columns == ["id", "Fare", "vendor", "v", "Title"]
    assert frame.join(frame, on="id").rows == 10
    fares = frame.select("Fare").filter(frame["Fare"] >= 2).join(frame.select("Fare", "id"), on="Fare")
    assert fares.to_arrow().to_pydict() == {"Fare": [2.0, 2.25], "id": [8, 9]}
    outer = names.join(tables.hold("more", pa.table({"vendor": ["z"], "x": [1]})), on="vendor", how="full").sort(
        "vendor"
    )
    assert outer.to_arrow().to_pydict() == {"vendor": ["a", "b", "z"], "Title": ["A", "B", None], "x": [None, None, 1]}
    col = engine_parts[0]
    assert frame.alias("l").join_on(frame.alias("r"), col("l.id") < col("r.id")).rows == 45
    with pytest.raises(QueryError, match="on="):
        frame.join(names)
    with pytest.raises(WrongKind, match="put it first"):
        frame.join(trips(), on="id")


def test_nothing_runs_before_it_is_read(tables, frame):
    before = tables.engine.statistics().queries
    answer = frame.filter("id > 3").select("id", "vendor").sort("id")
    assert answer.columns == ["id", "vendor"]
    assert tables.engine.statistics().queries == before
    answer.to_arrow()
    assert tables.engine.statistics().queries == before + 1


def test_a_lazy_frame_skips_chunks_as_sql_does(frame):
    assert frame.filter(frame["id"] == 5).explain().chunks_read == 1
    assert frame.filter(frame["id"] == 5).select("vendor").to_arrow().to_pydict() == {"vendor": ["a"]}


def test_explain_says_what_is_read(frame):
    text = str(frame.filter("id = 5").explain())
    assert "trips v1: reads 1 of 3 chunks, 4 rows," in text
    assert "Filter: trips.id = Int64(5)" in text


def test_what_the_engine_does_not_take_is_refused_when_it_is_asked(frame, engine_parts):
    col, _, _ = engine_parts
    with pytest.raises(QueryError, match="non-boolean"):
        frame.filter(col("id"))
    with pytest.raises(QueryError):
        frame.union(frame.select("id"))
    with pytest.raises(InvalidOption):
        frame.limit(-1)


# -- looks ------------------------------------------------------------------------------------------------------------


def test_a_frame_looks_like_a_table(frame):
    assert repr(frame).splitlines() == [
        f"<Frame trips v1: 10 rows x 3 columns, 3 chunks, {frame.bytes / 1000:.1f} kB>",
        "   id    Fare  vendor",
        "int64  double  string",
        "    0       0  a",
        "    1    0.25  b",
        "    2     0.5  ·",
        "    3    0.75  a",
        "    4       1  b",
        "and 5 rows more",
    ]
    assert repr(frame.filter("id > 8")).splitlines()[0] == "<Frame of a query: 1 row x 3 columns>"


def test_a_query_over_much_is_not_run_to_be_shown(tables):
    large = tables.hold("t", pa.table({"x": np.arange(300_000)}))
    query = large.sort("x")
    before = tables.engine.statistics().queries
    assert "not run yet" in repr(query)
    assert "not run yet" in query._repr_html_()
    assert "x int64" in repr(query)
    assert tables.engine.statistics().queries == before
    assert "300,000 rows" in repr(large)


def test_wide_and_odd_values_stay_on_their_line(tables):
    table = pa.table(
        {"text": ["line\nline\ttab", "x" * 500], "b": [b"\x00\xff", None], **{f"c{i:03d}": [i, i] for i in range(100)}}
    )
    lines = repr(tables.hold("t", table)).splitlines()
    assert len(lines) == 6
    assert all(len(line) <= 120 for line in lines)
    assert "columns more: c" in lines[-1] or "columns more" in lines[-1]


def test_html_escapes_everything(tables):
    frame = tables.hold("<b>k</b>", pa.table({"<i>c</i>": ["<script>alert(1)</script>"]}))
    page = frame._repr_html_()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


# -- any types --------------------------------------------------------------------------------------------------------

TYPES = st.recursive(
    st.sampled_from(
        [
            pa.int8(),
            pa.uint64(),
            pa.float32(),
            pa.bool_(),
            pa.string(),
            pa.large_binary(),
            pa.string_view(),
            pa.date32(),
            pa.timestamp("ns", "Europe/Prague"),
            pa.duration("ms"),
            pa.decimal128(20, 3),
            pa.dictionary(pa.int8(), pa.string()),
        ]
    ),
    lambda inner: st.one_of(
        inner.map(pa.list_), inner.map(lambda type_: pa.struct({"a": type_, "b": pa.int64()})), inner.map(pa.large_list)
    ),
    max_leaves=3,
)


def null_or_default(type_, rows):
    """Values of `type_`: missing, and what `pa.array` makes of zero."""
    some = {"string": "é", "binary": b"\x00", "bool": True}
    text = str(type_)
    value = next((given for name, given in some.items() if name in text), 0)
    try:
        return pa.array([None if row % 3 == 1 else value for row in range(rows)], type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, pa.ArrowNotImplementedError):
        return pa.nulls(rows, type_)


@given(st.lists(TYPES, min_size=1, max_size=4), st.integers(0, 7), st.integers(1, 3))
def test_every_type_is_read_back_whole_and_through_a_query(shared_engine: Engine, types, rows, rows_per_chunk):
    table = pa.table({f"c{index}": null_or_default(type_, rows) for index, type_ in enumerate(types)})
    parts = [table.slice(at, rows_per_chunk) for at in range(0, rows, rows_per_chunk)]
    frame = Frame.stored(unnamed(table.schema, parts), shared_engine)
    assert frame.schema == table.schema
    assert frame.to_arrow().equals(table)
    answer = frame.select(*table.column_names).to_arrow()
    assert answer.schema.types == table.schema.types
    assert answer.to_pylist() == table.to_pylist()


def test_nothing_in_a_frame_steers_a_terminal(tables):
    frame = tables.hold("k", pa.table({"x": ["\x1b[31mred", "\x1b]0;title\x07", "ünïcode"]}))
    assert "\x1b" not in repr(frame)
    assert r"\x1b[31mred" in repr(frame)
    assert "ünïcode" in repr(frame)


def test_what_python_has_no_value_for_is_shown_all_the_same(tables):
    far = pa.array([2**62, 5, None], pa.timestamp("s"))
    frame = tables.hold("k", pa.table({"far": far, "zone": pa.array([1, 2, 3], pa.timestamp("us", "Nowhere/X"))}))
    assert "4611686018427387904" in repr(frame)
    assert "1970-01-01 00:00:05" in repr(frame)
    assert "4611686018427387904" in frame._repr_html_()


def test_a_large_cell_is_cut_in_a_notebook(tables):
    assert len(tables.hold("k", pa.table({"x": ["y" * 5_000_000]}))._repr_html_()) < 2000
