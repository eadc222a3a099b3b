"""One column of every Arrow type, with missing values, and a Hypothesis strategy for tables of any of them."""

from __future__ import annotations

import datetime
import decimal
import math

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st

DAY = datetime.date(2026, 11, 21)
MOMENT = datetime.datetime(2026, 11, 21, 12, 30, 15, 123456)
ENDLESS = [1.5, None, math.inf, -math.inf, -0.0]
WORDS = ["", None, "é", "a" * 100, "\U0001f600"]
BLOBS = [b"", None, b"\x00\xff", b"a" * 100, b"x"]


class Celsius(pa.ExtensionType):
    """An extension type nobody has registered, as users have them."""

    def __init__(self):
        super().__init__(pa.float64(), "test.celsius")

    def __arrow_ext_serialize__(self):
        return b"v1"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


def _flat() -> dict[str, pa.Array]:
    columns = {"null": pa.nulls(5), "bool": pa.array([True, None, False, True, None])}
    for bits in (8, 16, 32, 64):
        signed, unsigned = getattr(pa, f"int{bits}")(), getattr(pa, f"uint{bits}")()
        columns[str(signed)] = pa.array([0, None, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 1], signed)
        columns[str(unsigned)] = pa.array([0, None, 2**bits - 1, 2, 1], unsigned)
    for type_ in (pa.float16(), pa.float32(), pa.float64()):
        columns[str(type_)] = pa.array(ENDLESS, type_)
    for type_ in (pa.string(), pa.large_string(), pa.string_view()):
        columns[str(type_)] = pa.array(WORDS, type_)
    for type_ in (pa.binary(), pa.large_binary(), pa.binary_view()):
        columns[str(type_)] = pa.array(BLOBS, type_)
    columns["fixed binary"] = pa.array([b"abc", None, b"\x00\x01\x02", b"xyz", b"   "], pa.binary(3))
    columns["empty fixed binary"] = pa.array([b"", None, b"", b"", b""], pa.binary(0))
    for make, digits in ((pa.decimal32, 9), (pa.decimal64, 18), (pa.decimal128, 38), (pa.decimal256, 76)):
        most = decimal.Decimal("9" * digits).scaleb(-2, decimal.Context(prec=80))
        columns[make.__name__] = pa.array(
            [most, None, most.copy_negate(), decimal.Decimal("0.01"), decimal.Decimal(0)], make(digits, 2)
        )
    return columns


def _times() -> dict[str, pa.Array]:
    columns = {
        "date32": pa.array([DAY, None, datetime.date.min, datetime.date.max, DAY], pa.date32()),
        "date64": pa.array([DAY, None, datetime.date.min, datetime.date.max, DAY], pa.date64()),
        "month_day_nano": pa.array(
            [(1, -15, 10**12), None, (0, 0, 0), (-12, 1, 1), (1, 1, 1)], pa.month_day_nano_interval()
        ),
    }
    extremes = [0, None, -(2**63), 2**63 - 1, 1]
    for unit in ("s", "ms", "us", "ns"):
        short = unit in ("s", "ms")
        clock = pa.time32(unit) if short else pa.time64(unit)
        columns[str(clock)] = pa.array([0, None, 1, 86_399, 5], pa.int32() if short else pa.int64()).view(clock)
        columns[f"duration {unit}"] = pa.array(extremes, pa.int64()).view(pa.duration(unit))
        for zone in (None, "UTC", "Europe/Prague", "+05:30"):
            columns[f"timestamp {unit} {zone}"] = pa.array(extremes, pa.int64()).view(pa.timestamp(unit, zone))
    return columns


def _nested() -> dict[str, pa.Array]:
    lists = [[1, None, 3], None, [], [4], [5, 6]]
    structs = [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}, {"a": 2, "b": None}, {"a": 3, "b": ""}]
    columns = {
        str(make(pa.int64())): pa.array(lists, make(pa.int64()))
        for make in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    }
    columns["fixed list"] = pa.array([[1, 2], None, [None, 4], [5, 6], [7, 8]], pa.list_(pa.int32(), 2))
    columns["empty fixed list"] = pa.array([[], None, [], [], []], pa.list_(pa.int32(), 0))
    columns["struct"] = pa.array(structs, pa.struct({"a": pa.int64(), "b": pa.string()}))
    columns["empty struct"] = pa.array([{}, None, {}, {}, {}], pa.struct([]))
    columns["map"] = pa.array([[("k", 1), ("l", None)], None, [], [("m", 2)], []], pa.map_(pa.string(), pa.int64()))
    deep = pa.struct({"m": pa.map_(pa.string(), pa.list_(pa.struct({"t": pa.timestamp("us", "UTC")})))})
    columns["deep"] = pa.array(
        [{"m": [("k", [{"t": MOMENT}, None])]}, None, {"m": None}, {"m": []}, {"m": [("z", None)]}], deep
    )
    columns["list of views"] = pa.array([["a" * 40, None], None, [], ["b"], ["c" * 13]], pa.list_(pa.string_view()))
    kinds, offsets = pa.array([0, 1, 0, 1, 0], pa.int8()), pa.array([0, 0, 1, 1, 2], pa.int32())
    columns["dense union"] = pa.UnionArray.from_dense(kinds, offsets, [pa.array([1, None, 3]), pa.array(["x", None])])
    columns["sparse union"] = pa.UnionArray.from_sparse(kinds, [pa.array([1, 2, None, 4, 5]), pa.array(WORDS)])
    return columns


def _encoded() -> dict[str, pa.Array]:
    return {
        "dictionary": pa.array(["a", None, "b", "a", "a"]).dictionary_encode(),
        "small dictionary": pa.array(["a", None, "b", "a", "a"], pa.dictionary(pa.int8(), pa.string())),
        "ordered dictionary": pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 0, 0]), ["lo", "hi"], ordered=True),
        "dictionary with a missing word": pa.DictionaryArray.from_arrays(
            pa.array([0, None, 1, 0, 1]), pa.array(["a", None])
        ),
        "dictionary of numbers": pa.array([1.5, None, 2.5, 1.5, 1.5]).dictionary_encode(),
        "list of dictionary": pa.array(
            [["a"], None, [], ["b", None], ["a"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))
        ),
        "struct of dictionary": pa.StructArray.from_arrays(
            [pa.array(["a", None, "b", "a", "a"]).dictionary_encode()], ["d"]
        ),
        "run ends": pc.run_end_encode(pa.array([1, 1, None, None, 2])),
        "run ends of text": pc.run_end_encode(pa.array(["a", "a", None, "b", "b"]), run_end_type=pa.int16()),
        "uuid": pa.ExtensionArray.from_storage(
            pa.uuid(), pa.array([b"0" * 16, None, b"1" * 16, b"2" * 16, b"3" * 16], pa.binary(16))
        ),
        "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None, "[1]", "null", "0"])),
        "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None, 0, 1, 0], pa.int8())),
        "tensor": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int32(), [2]),
            pa.array([[1, 2], None, [3, 4], [5, 6], [7, 8]], pa.list_(pa.int32(), 2)),
        ),
        "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "geometry", "someone"), pa.array(BLOBS)),
        "unregistered extension": pa.ExtensionArray.from_storage(Celsius(), pa.array([1.5, None, 2.5, -0.0, 3.0])),
    }


COLUMNS: dict[str, pa.Array] = {**_flat(), **_times(), **_nested(), **_encoded()}


def difference(found: pa.Table, expected: pa.Table) -> str:
    """What differs between two tables, or ''. NaN equals NaN; how rows are cut, and dictionaries coded, is free."""
    if not found.schema.equals(expected.schema, check_metadata=True):
        return f"schema\n{found.schema.to_string()}\nnot\n{expected.schema.to_string()}"
    if found.num_rows != expected.num_rows:
        return f"{found.num_rows} rows, not {expected.num_rows}"
    found.validate(full=True)
    for field, left, right in zip(expected.schema, found.columns, expected.columns, strict=True):
        if not left.equals(right) and plain(left) != plain(right):
            return f"column {field}: {left}, not {right}"
    return ""


def plain(column: pa.ChunkedArray) -> str:
    return repr([cell for chunk in column.chunks for cell in chunk.to_pylist()])


# -- any table ---------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_LONG = 2**63
_INTEGERS = {
    getattr(pa, f"{sign}int{bits}")(): (0 if sign else -(2 ** (bits - 1)), (2**bits if sign else 2 ** (bits - 1)) - 1)
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
_CELLS = {
    pa.bool_(): st.booleans(),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.date32(): st.dates(),
    pa.null(): st.none(),
    pa.decimal128(20, 3): st.decimals(-(10**16), 10**16, places=3),
    pa.decimal256(50, 3): st.decimals(-(10**16), 10**16, places=3),
    pa.binary(4): st.binary(min_size=4, max_size=4),
    **{type_: st.integers(*bounds) for type_, bounds in _INTEGERS.items()},
    **{
        type_: st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        for type_ in (pa.string(), pa.large_string(), pa.string_view())
    },
    **{type_: st.binary(max_size=20) for type_ in (pa.binary(), pa.large_binary(), pa.binary_view())},
    **{pa.timestamp("us", zone): st.datetimes() for zone in (None, "UTC")},
    pa.duration("ms"): st.integers(-(2**40), 2**40),
}


def _wrapped(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    field = st.builds(pa.field, NAMES, inner)
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        inner.map(lambda type_: pa.list_(type_, 2)),
        inner.map(lambda type_: pa.map_(pa.string(), type_)),
        st.lists(field, max_size=3, unique_by=lambda field: field.name).map(pa.struct),
    )


FLAT_TYPES = st.sampled_from(sorted(_CELLS, key=str))
TYPES = st.one_of(
    FLAT_TYPES,
    st.recursive(FLAT_TYPES, _wrapped, max_leaves=4),
    st.sampled_from([pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.int64())]),
)


def cells(type_: pa.DataType) -> st.SearchStrategy[object]:
    """Python values, and None, that make a column of `type_`."""
    if type_ in _CELLS:
        return st.none() | _CELLS[type_]
    if pa.types.is_dictionary(type_):
        return cells(type_.value_type)
    if pa.types.is_struct(type_):
        return st.none() | st.fixed_dictionaries({field.name: cells(field.type) for field in type_})
    if pa.types.is_map(type_):
        return st.none() | st.lists(
            st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), cells(type_.item_type)), max_size=3
        )
    size = {"min_size": 2, "max_size": 2} if pa.types.is_fixed_size_list(type_) else {"max_size": 3}
    return st.none() | st.lists(cells(type_.value_type), **size)


@st.composite
def tables(draw) -> pa.Table:
    """A table of any columns, cut into batches anywhere and perhaps a slice of a longer one."""
    schema = pa.schema(
        draw(st.lists(st.builds(pa.field, NAMES, TYPES), max_size=5)),
        metadata=draw(
            st.none() | st.dictionaries(st.binary(max_size=5), st.binary(max_size=5), min_size=1, max_size=2)
        ),
    )
    batches = []
    for rows in draw(st.lists(st.integers(0, 6), max_size=3)):
        arrays = [
            pa.array(draw(st.lists(cells(field.type), min_size=rows, max_size=rows)), field.type) for field in schema
        ]
        if arrays:
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    table = pa.Table.from_batches(batches, schema)
    start = draw(st.integers(0, table.num_rows))
    return table.slice(start, draw(st.none() | st.integers(0, table.num_rows - start)))
