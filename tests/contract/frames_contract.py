"""What every store promises of frames and files. Inherited by `StoreContract`; needs its fixtures."""

from __future__ import annotations

import datetime
import gc
import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tests.contract.arrow_types import COLUMNS, Celsius, difference

from eau2.errors import InvalidValue, KeyExists, KeyMissing, LoadError, QueryError, VersionConflict, WrongKind

TABLE = pa.table({"n": [1, 2, None], "s": ["a", None, "c"]})
MEGABYTE = 1 << 20


class OnlyStream:
    """What DuckDB relations, ibis tables and many others are to us."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


INPUTS = {
    "table": lambda: TABLE,
    "batch": lambda: TABLE.to_batches()[0],
    "reader": TABLE.to_reader,
    "arrow stream": lambda: OnlyStream(TABLE),
    "dict of lists": lambda: {"n": [1, 2, None], "s": ["a", None, "c"]},
    "dict of arrays": lambda: {"n": pa.array([1, 2, None]), "s": pa.chunked_array([["a", None], ["c"]])},
    "generator of batches": lambda: (batch for batch in TABLE.to_batches(max_chunksize=1)),
    "list of tables": lambda: [TABLE.slice(0, 1), TABLE.slice(1)],
}
ROWS = {
    "generator of dicts": lambda: (dict(row) for row in TABLE.to_pylist()),
    "generator of tuples": lambda: (tuple(row.values()) for row in TABLE.to_pylist()),
    "list of lists": lambda: [[1, "a"], [2, None], [None, "c"]],
    "dicts that lack columns": lambda: [{"n": 1, "s": "a"}, {"n": 2}, {"s": "c"}],
}
NO_TABLES = {
    "ragged dict": ({"x": [1, 2], "y": [1]}, "'x' has 2 values, 'y' 1"),
    "text as a column": ({"x": "text"}, "'x'"),
    "number as a column": ({"x": 1}, "'x'"),
    "column of two types": ({"x": [1, "a"]}, "'x'"),
    "column of objects": ({"x": [object()]}, "'x'"),
    "number as a column name": ({1: [1]}, "column names are text"),
    "pandas series": (pd.Series([1]), "to_frame"),
    "polars series": (pl.Series([1]), "to_frame"),
    "polars lazy frame": (pl.LazyFrame({"a": [1]}), "collect"),
    "pandas frame of objects": (pd.DataFrame({"x": [1, "a", object()]}), "pandas"),
    "empty iterator": (iter([]), "schema="),
    "rows without a schema": ([(1, 2)], "schema="),
    "list of numbers": ([1, 2], "int"),
    "an array": (pa.array([1]), "Int64"),
    "batches that differ": ([TABLE, pa.table({"other": [1]})], "batch 1"),
    "a number among batches": ([TABLE, 7], "item 1"),
}
BAD_ROWS = {
    "short row": ([(1, "a"), (2,)], "row 1 has 1 values for 2"),
    "wrong type": ([(1, "a"), (2, 3)], "row 1, column 's': 3"),
    "unknown column": ([{"n": 1, "x": 2}], "row 0.*'x'"),
    "no row": ([(1, "a"), 5], "row 1 is int"),
}


def wide(megabytes: int, seed: int = 0) -> pa.Table:
    """Rows of a megabyte each, so that a few are several chunks."""
    random = np.random.default_rng(seed)
    block = random.bytes(MEGABYTE - 8)
    cells = [number.to_bytes(8, "little") + block for number in range(megabytes)]
    return pa.table({"row": pa.array(range(megabytes), pa.int32()), "blob": pa.array(cells, pa.large_binary())})


class FramesContract:
    # -- what goes in -------------------------------------------------------------------------------------------------

    def test_every_kind_of_table_comes_back(self, store, subtests):
        for kind, make in INPUTS.items():
            with subtests.test(kind):
                assert store.put(kind, make()) == 1
                frame = store.frame(kind)
                assert frame.to_arrow().equals(TABLE)
                assert (frame.rows, frame.version, frame.schema) == (3, 1, TABLE.schema)

    def test_rows_come_back_by_their_schema(self, store, subtests):
        for kind, make in ROWS.items():
            with subtests.test(kind):
                store.put(kind, make(), schema=TABLE.schema)
                assert store.frame(kind).to_arrow().equals(TABLE)

    def test_no_rows_with_a_schema_make_an_empty_frame(self, store):
        store.put("f", iter([]), schema=TABLE.schema)
        assert store.frame("f").to_arrow().equals(TABLE.schema.empty_table())

    def test_a_pandas_frame_comes_back_with_its_index_and_may_be_written_to(self, store):
        index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", None])
        for source in (
            pd.DataFrame({"n": [1.5, None], "s": ["a", None]}),
            pd.DataFrame({"n": [1, 2]}, index=pd.Index(["p", "q"], name="who")),
            pd.DataFrame({"n": [1, 2]}, index=index),
            pd.DataFrame({"n": [1, 2]}, index=pd.date_range("2026", periods=2, tz="Europe/Prague", unit="us")),
            pd.DataFrame({"c": pd.Categorical(["a", "b"]), "i": pd.array([1, None], dtype="Int64")}),
            pd.DataFrame(index=pd.RangeIndex(3)),
            pd.DataFrame(),
        ):
            store.put("f", source)
            found = store.frame("f").to_pandas()
            pd.testing.assert_frame_equal(found, source, check_freq=False)
            for column in found.select_dtypes("number"):
                found[column] += 1
                found.loc[found.index[0], column] = 0

    def test_a_polars_frame_comes_back(self, store):
        source = pl.DataFrame(
            {"n": [1, None], "s": ["a", "b"], "l": [[1], []], "d": [datetime.date(2026, 1, 1), None], "c": ["x", "y"]}
        )
        store.put("f", source.with_columns(pl.col("c").cast(pl.Categorical)))
        assert store.frame("f").to_polars().with_columns(pl.col("c").cast(pl.String)).equals(source)

    def test_a_schema_casts_a_table(self, store):
        schema = pa.schema({"n": pa.int8(), "s": pa.large_string()})
        store.put("f", TABLE, schema=schema)
        assert store.frame("f").to_arrow().equals(TABLE.cast(schema))
        with pytest.raises(InvalidValue, match="cast"):
            store.put("f", pa.table({"n": [1000], "s": ["a"]}), schema=schema)
        assert store.version("f") == 1

    def test_what_is_no_table_is_refused_and_nothing_changes(self, store, subtests):
        store.put("f", TABLE)
        for what, (value, said) in NO_TABLES.items():
            with subtests.test(what):
                with pytest.raises(InvalidValue, match=said) as caught:
                    store.put("f", value)
                assert isinstance(caught.value, (TypeError, ValueError))
                assert store.version("f") == 1
                assert store.frame("f").to_arrow().equals(TABLE)

    def test_a_bad_row_is_named(self, store, subtests):
        for what, (rows, said) in BAD_ROWS.items():
            with subtests.test(what):
                with pytest.raises(InvalidValue, match=said):
                    store.put("f", rows, schema=TABLE.schema)
                assert store.keys() == []

    # -- what comes out -----------------------------------------------------------------------------------------------

    def test_every_type_comes_back(self, store, subtests):
        pa.register_extension_type(Celsius())
        try:
            tables = {}
            for name, column in COLUMNS.items():
                sources = {
                    "whole": column,
                    "sliced": column.slice(1, 3),
                    "in pieces": pa.chunked_array([column.slice(2), column, column.slice(0, 0)]),
                    "one row": column.slice(1, 1),
                    "no rows": column.slice(0, 0),
                }
                tables |= {f"{name}, {how}": pa.table({"c": source}) for how, source in sources.items()}
            store.put_many(tables)
            for key, expected in tables.items():
                with subtests.test(key):
                    frame = store.frame(key)
                    assert difference(frame.to_arrow(), expected) == ""
                    assert difference(pa.Table.from_batches(frame.batches(), frame.schema), expected) == ""
        finally:
            pa.unregister_extension_type("test.celsius")

    def test_an_extension_type_that_is_not_registered_stays_what_it_is(self, store):
        store.put("f", pa.table({"c": COLUMNS["unregistered extension"]}))
        found = store.frame("f").to_arrow()
        assert found.schema.field("c").type == pa.float64()
        assert found.schema.field("c").metadata[b"ARROW:extension:name"] == b"test.celsius"

    def test_floating_point_numbers_keep_their_bits(self, store):
        for type_ in (pa.float16(), pa.float32(), pa.float64()):
            bits = np.random.default_rng(1).bytes(type_.byte_width * 1000)
            column = pa.Array.from_buffers(type_, 1000, [None, pa.py_buffer(bits)])
            store.put("f", pa.table({"c": column}))
            assert store.frame("f").to_arrow().column("c").chunk(0).to_numpy().tobytes() == bits

    def test_a_frame_without_rows_keeps_its_columns(self, store):
        store.put("f", TABLE.schema.empty_table())
        frame = store.frame("f")
        assert frame.rows == 0
        assert frame.to_arrow().equals(TABLE.schema.empty_table())
        assert list(frame.batches()) == [] or sum(batch.num_rows for batch in frame.batches()) == 0
        assert frame.to_pandas().empty
        assert frame.to_polars().height == 0

    def test_a_frame_without_columns(self, store):
        store.put("f", pa.table({}))
        assert store.frame("f").to_arrow().equals(pa.table({}))

    def test_rows_without_columns_are_still_rows(self, store):
        store.put("f", TABLE.select([]))
        assert store.frame("f").rows == 3
        assert store.frame("f").to_arrow().num_rows == 3

    def test_columns_may_share_a_name_and_have_any(self, store):
        columns = [
            pa.array([1, 2]),
            pa.array(["a", "b"]),
            pa.array([None, 1.5]),
            pa.array([True, False]),
            pa.array([1, 1]),
        ]
        source = pa.Table.from_arrays(columns, names=["x", "x", "", "a \n\x00 b", "\U0001f600"])
        store.put("f", source)
        assert difference(store.frame("f").to_arrow(), source) == ""

    def test_metadata_and_non_nullable_fields_are_kept(self, store):
        field = pa.field("n", pa.int64(), nullable=False, metadata={"unit": "m"})
        schema = pa.schema(
            [field, pa.field("l", pa.list_(pa.field("item", pa.int8(), nullable=False)))], metadata={b"\xff": b"\x00"}
        )
        source = pa.Table.from_arrays([pa.array([1]), pa.array([[1]], schema.field("l").type)], schema=schema)
        for key, table in {"rows": source, "none": source.slice(0, 0)}.items():
            store.put(key, table)
            assert store.frame(key).schema.equals(schema, check_metadata=True)
            assert store.frame(key).to_arrow().schema.equals(schema, check_metadata=True)

    def test_dictionaries_may_differ_between_batches(self, store):
        parts = [pa.array(words, pa.string()).dictionary_encode() for words in (["a", "b"], ["c", None], ["b"], [])]
        source = pa.table({"d": pa.chunked_array(parts), "n": range(5)})
        store.put("f", source)
        assert store.frame("f").to_arrow().column("d").cast(pa.string()).to_pylist() == ["a", "b", "c", None, "b"]
        store.put("g", (batch for batch in source.to_batches()))
        assert difference(store.frame("g").to_arrow(), source) == ""

    def test_many_columns(self, store):
        source = pa.table({f"c{number}": [number, None] for number in range(2000)})
        store.put("f", source)
        assert store.frame("f").to_arrow().equals(source)

    @pytest.mark.slow
    def test_a_frame_of_several_chunks_comes_back_in_order(self, store):
        source = wide(150)
        store.put("f", source.to_batches(max_chunksize=7))
        frame = store.frame("f")
        assert store.statistics().chunks >= 3
        assert (frame.rows, frame.bytes >= 150 * MEGABYTE) == (150, True)
        assert frame.to_arrow().equals(source)
        assert [row for batch in frame.batches() for row in batch.column("row").to_pylist()] == list(range(150))
        for row in (0, 63, 64, 149):
            assert frame.value("row", row=row) == row
            assert frame.value("blob", row=row) == source.column("blob")[row].as_py()

    def test_equal_chunks_are_stored_once(self, store):
        half = wide(60)
        store.put("f", pa.concat_tables([half, half]).to_batches(max_chunksize=60))
        store.put("g", half)
        assert store.frame("f").to_arrow().equals(pa.concat_tables([half, half]))
        assert store.statistics().chunk_bytes < 80 * MEGABYTE
        store.delete("f")
        assert store.frame("g").to_arrow().equals(half)
        assert store.check().faults == ()

    def test_nothing_of_a_frame_can_be_written_to(self, store):
        store.put("f", {"n": np.arange(1000.0)})
        column = store.frame("f").to_arrow().column("n").chunk(0)
        assert not column.buffers()[1].is_mutable
        with pytest.raises(ValueError, match="read-only"):
            column.to_numpy()[0] = 7
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(store.frame("f").to_polars()["n"].to_numpy())[0] = 7
        assert store.frame("f").value("n", row=0) == 0

    def test_get_and_frame_give_the_same(self, store):
        store.put("f", TABLE)
        assert store.get("f").to_arrow().equals(store.frame("f").to_arrow())
        assert store.get_many(["f"])["f"].to_arrow().equals(TABLE)
        assert store.wait("f", timeout_seconds=0).to_arrow().equals(TABLE)

    def test_a_frame_is_a_table_to_others(self, store):
        store.put("f", TABLE)
        assert pa.table(store.frame("f")).equals(TABLE)
        assert pl.DataFrame(store.frame("f"))["n"].to_list() == [1, 2, None]

    # -- versions of frames -------------------------------------------------------------------------------------------

    def test_conditions_hold_for_frames_as_for_bytes(self, store):
        assert store.create("f", TABLE) == 1
        with pytest.raises(KeyExists):
            store.create("f", TABLE)
        with pytest.raises(VersionConflict) as caught:
            store.update("f", {"x": [1]}, if_version=9)
        assert caught.value.found == 1
        with pytest.raises(KeyMissing):
            store.update("g", TABLE)
        assert store.keys() == ["f"]
        version = store.update("f", {"x": [1]}, if_version=1)
        assert store.frame("f").version == version > 1
        assert store.check().faults == ()

    def test_a_refused_iterator_is_not_begun(self, store):
        store.put("f", b"there")
        taken = []
        with pytest.raises(KeyExists):
            store.create("f", (taken.append(1) or batch for batch in TABLE.to_batches()))
        assert taken == []

    def test_a_key_may_change_its_kind(self, store):
        versions = []
        for value in (b"1", TABLE, b"2", {"x": [1]}, b"3"):
            versions.append(store.put("k", value))
            if isinstance(value, bytes):
                assert store.get("k") == value
                with pytest.raises(WrongKind):
                    store.frame("k")
            else:
                assert store.get("k").to_arrow().equals(pa.table(value))
        assert versions == sorted(set(versions))
        assert store.statistics().chunks == 0
        assert store.check().faults == ()

    def test_a_held_frame_survives_put_and_delete(self, store, opener):
        store.put("f", TABLE)
        held = store.frame("f")
        store.put("f", {"x": [1]})
        second = store.frame("f")
        with opener() as other:
            other.delete("f")
        gc.collect()
        for _ in range(2):
            assert held.to_arrow().equals(TABLE)
            assert held.value("s", row=2) == "c"
            assert second.to_arrow().equals(pa.table({"x": [1]}))
            store.put("f", b"bytes")
        assert (held.version, second.version) == (1, 2)

    def test_a_held_frame_and_its_tables_survive_close(self, store):
        store.put("f", TABLE)
        held, table = store.frame("f"), store.frame("f").to_arrow()
        store.close()
        assert held.to_arrow().equals(TABLE)
        assert table.equals(TABLE)

    def test_a_table_survives_its_frame(self, store):
        store.put("f", {"n": np.arange(100_000)})
        table = store.frame("f").to_arrow()
        store.delete("f")
        gc.collect()
        store.put("g", {"n": np.zeros(100_000)})
        assert table.column("n").to_numpy().sum() == sum(range(100_000))

    def test_a_stored_frame_is_put_under_another_key_without_new_chunks(self, store):
        source = wide(3)
        store.put("f", source)
        written = store.statistics().chunks_written
        assert store.put("g", store.frame("f")) == 1
        assert store.statistics().chunks_written == written
        assert store.statistics().chunks == 1
        store.delete("f")
        assert store.frame("g").to_arrow().equals(source)
        assert store.check().faults == ()

    def test_a_frame_put_under_its_own_key_is_a_new_version(self, store):
        store.put("f", TABLE)
        assert store.put("f", store.frame("f")) == 2
        assert store.frame("f").to_arrow().equals(TABLE)
        assert store.check().faults == ()

    def test_a_held_frame_that_was_deleted_can_be_put_again(self, store):
        store.put("f", TABLE)
        held = store.frame("f")
        store.delete("f")
        store.put("g", held)
        store.put("f", held)
        assert store.frame("f").to_arrow().equals(store.frame("g").to_arrow())
        assert store.check().faults == ()

    def test_a_derived_frame_is_stored_under_another_key_and_its_own(self, store):
        store.put("f", {"n": [3, 1, 2]})
        store.put("top", store.sql("select n from f where n > 1 order by n"))
        assert store.frame("top").to_arrow().column("n").to_pylist() == [2, 3]
        store.put("f", store.sql("select n * 10 as n from f order by 1"))
        assert store.frame("f").to_arrow().column("n").to_pylist() == [10, 20, 30]
        assert store.frame("top").to_arrow().column("n").to_pylist() == [2, 3]
        assert store.check().faults == ()

    def test_parameters_of_a_query_are_values_and_no_text(self, store, subtests):
        store.put("f", {"n": [1, 2, 3], "s": ["a", "it's", "' or 1 = 1 --"]})
        for query, parameters, expected in (
            ("select n from f where s = ?", ["it's"], [2]),
            ("select n from f where s = $1 or n = $2", ["' or 1 = 1 --", 1], [1, 3]),
            ("select n from f where n between $low and $high", {"low": 2, "high": 3}, [2, 3]),
            ("select N as n from f where S <> '?' and n > ? limit ?", [1, 1], [2]),
            ("select n from f where n in (select n from f where n = ?)", [pa.scalar(3, pa.int8())], [3]),
            ("select n from f where n = ?", [None], []),
        ):
            with subtests.test(query):
                frame = store.sql(query, parameters=parameters)
                assert sorted(frame.to_arrow()["n"].to_pylist()) == expected
                assert frame.filter("n < 3").rows == sum(n < 3 for n in expected)
        for query, parameters in (
            ("select ?", []),
            ("select $1", None),
            ("select $a", {"b": 1}),
            ("select n from ?", ["f"]),
        ):
            with subtests.test(query), pytest.raises(QueryError):
                store.sql(query, parameters=parameters)

    def test_a_frame_of_one_store_is_put_into_another(self, store, second_opener):
        store.put("f", TABLE)
        with second_opener() as other:
            other.put("g", store.frame("f"))
            store.delete("f")
            assert other.frame("g").to_arrow().equals(TABLE)
            assert other.check().faults == ()

    # -- failures -----------------------------------------------------------------------------------------------------

    def test_an_iterator_that_fails_leaves_what_was_there(self, store):
        store.put("f", TABLE)
        chunks = store.statistics().chunks
        batches = wide(80).to_batches(max_chunksize=40)

        def failing(error):
            yield from batches
            raise error

        for error in (ValueError("mine"), KeyboardInterrupt(), GeneratorExit()):
            with pytest.raises(type(error)) as caught:
                store.put("f", failing(error))
            assert caught.value is error
            assert (store.version("f"), store.statistics().chunks) == (1, chunks)
            assert store.frame("f").to_arrow().equals(TABLE)
            assert store.check().faults == ()

    def test_an_iterator_of_other_columns_half_way_leaves_nothing(self, store):
        batches = [*wide(70).to_batches(max_chunksize=35), TABLE.to_batches()[0]]
        with pytest.raises(InvalidValue, match="batch 2"):
            store.put("f", iter(batches))
        assert store.keys() == []
        assert store.statistics().chunks == 0
        assert store.check().faults == ()

    def test_what_check_looked_at(self, store):
        store.put("a", b"12345")
        store.put("f", TABLE)
        store.put("g", TABLE)
        report = store.check()
        assert (report.keys, report.chunks, report.faults) == (3, 1, ())
        assert report.bytes > 5

    # -- files --------------------------------------------------------------------------------------------------------

    def test_a_file_comes_back_as_it_was(self, store, tmp_path):
        for size in (0, 1, 100_000):
            self.file_round(store, tmp_path, size)

    @pytest.mark.slow
    def test_a_file_of_pieces_comes_back_as_it_was(self, store, tmp_path):
        for size in ((32 << 20) - 1, 32 << 20, (32 << 20) + 1, 70 << 20):
            self.file_round(store, tmp_path, size)

    def file_round(self, store, tmp_path, size):
        source, target = tmp_path / "source", tmp_path / "target"
        content = np.random.default_rng(size).bytes(size)
        source.write_bytes(content)
        target.write_bytes(b"old")
        assert store.put_file(f"file of {size}", source) == 1
        source.unlink()
        assert store.get_file(f"file of {size}", str(target)) == size
        assert target.read_bytes() == content
        assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []

    def test_a_file_is_a_frame_and_has_versions(self, store, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"\x00\xff text")
        assert store.put_file("file", path) == 1
        assert store.put_file("file", path) == 2
        assert store.get("file").rows == 1
        assert store.keys() == ["file"]

    def test_bytes_may_be_got_as_a_file(self, store, tmp_path):
        store.put("a", b"\x00bytes")
        assert store.get_file("a", tmp_path / "a") == 6
        assert (tmp_path / "a").read_bytes() == b"\x00bytes"

    def test_a_written_file_has_ordinary_rights_and_leaves_no_other(self, store, tmp_path):
        folder = tmp_path / "out"
        folder.mkdir()
        store.put("a", b"1")
        store.get_file("a", folder / "a")
        (folder / "b").write_bytes(b"")
        assert (folder / "a").stat().st_mode == (folder / "b").stat().st_mode
        assert sorted(os.listdir(folder)) == ["a", "b"]

    def test_a_frame_is_no_file(self, store, tmp_path):
        store.put("f", TABLE)
        with pytest.raises(WrongKind, match="'f'"):
            store.get_file("f", tmp_path / "f")
        with pytest.raises(KeyMissing):
            store.get_file("absent", tmp_path / "f")
        assert not (tmp_path / "f").exists()

    def test_a_file_that_cannot_be_read_or_written_is_named(self, store, tmp_path):
        store.put("a", b"1")
        for path in (tmp_path / "absent", tmp_path):
            with pytest.raises(LoadError, match=str(path)):
                store.put_file("file", path)
        for path in (tmp_path / "absent" / "x", tmp_path):
            with pytest.raises(LoadError, match=str(path)):
                store.get_file("a", path)
        assert store.keys() == ["a"]
