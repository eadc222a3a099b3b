"""Frames as bodies of HTTP: Arrow streams, CSV, JSON and lines of JSON, in pieces however large they are. No sockets.

JSON has of Arrow's types: integers as numbers, also those over 2^53; NaN and infinities as null; decimals as text;
dates, times and timestamps as ISO 8601, with the offset of their zone; durations as seconds; binary as base64; lists
as arrays, structs as objects, maps as arrays of [key, value]; dictionaries as what they stand for.
"""

from __future__ import annotations

import base64
import json
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from eau2.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PIECE_BYTES = 1 << 20  # of rows that are encoded at once
PIECE_ROWS = 8192  # likewise: rows of few bytes are long as JSON
_UNITS_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Format(StrEnum):
    """How a frame is told; the value is its media type."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    CSV = "text/csv"
    ARROW = "application/vnd.apache.arrow.stream"


class NotAcceptable(InvalidOption):
    """What is asked for cannot be told in the format that is asked for."""


class _Range(NamedTuple):
    """One item of an Accept header."""

    type: str
    quality: float

    def covers(self, media_type: str) -> int:
        """How exactly it names `media_type`; 0 where it does not."""
        if self.type == media_type:
            return 3
        if self.type.endswith("/*") and media_type.startswith(self.type[:-1]):
            return 2
        return int(self.type in ("*/*", "*"))


_BY_NAME = {each.name.lower(): each for each in Format}
_OTHER_NAMES = {"application/ndjson": Format.NDJSON, "application/jsonl": Format.NDJSON}
_KNOWN = f"the formats are {', '.join(_BY_NAME)}"


def format_asked(accept: str, override: str | None = None) -> Format:
    """Return the format that an Accept header prefers, or that `override` names. JSON where any will do.

    >>> format_asked("text/html, */*;q=0.8").name, format_asked("text/csv, application/json;q=0.5").name
    ('JSON', 'CSV')

    Raises NotAcceptable.
    """
    if override is not None:
        if override not in _BY_NAME:
            raise NotAcceptable(f"there is no format {override!r}", hint=_KNOWN)
        return _BY_NAME[override]
    ranges = [_range(item) for item in accept.split(",") if item.strip()] or [_Range("*/*", 1.0)]
    best, most = None, 0.0
    for name, format_ in ({each.value: each for each in Format} | _OTHER_NAMES).items():
        covering = max(ranges, key=lambda each: each.covers(name))
        if covering.covers(name) and covering.quality > most:
            best, most = format_, covering.quality
    if best is None:
        raise NotAcceptable(f"no format of frames is {accept!r:.200}", hint=f"{_KNOWN}; ?format= names one too")
    return best


def _range(item: str) -> _Range:
    name, *parameters = (part.strip().lower() for part in item.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return _Range(name, quality)


def encoded(schema: pa.Schema, batches: Iterable[pa.RecordBatch], format_: Format) -> Iterator[bytes]:
    """Yield the rows of `batches` as a body, a piece of about PIECE_BYTES of rows at a time.

    NotAcceptable, before anything is yielded, where `format_` has no way to tell such columns. What `batches` raises
    comes amid the body: it must not end as if it were whole.
    """
    pieces = (piece for batch in batches for piece in _cut(pa.RecordBatch.from_arrays(batch.columns, schema=schema)))
    if format_ is Format.ARROW:
        return _arrow(schema, pieces)
    _refuse_same_names(schema, format_)
    if format_ is Format.CSV:
        return _csv(schema, pieces)
    return (_joined(piece, "\n") + b"\n" for piece in pieces) if format_ is Format.NDJSON else _array(pieces)


def _refuse_same_names(schema: pa.Schema, format_: Format) -> None:
    if len(set(schema.names)) < len(schema.names):
        raise NotAcceptable(
            f"{format_.name} has no two columns of one name", hint="name each column, or ask for an Arrow stream"
        )


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = max(1, min(PIECE_ROWS, batch.num_rows * PIECE_BYTES // max(1, batch.nbytes)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


# -- Arrow and CSV ----------------------------------------------------------------------------------------------------


class _Sink:
    """A file that keeps what is written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _arrow(schema: pa.Schema, pieces: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    sink = _Sink()
    writer = pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema)
    yield sink.take()
    for piece in pieces:
        writer.write_batch(piece)
        yield sink.take()
    writer.close()
    yield sink.take()


def _csv(schema: pa.Schema, pieces: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    from pyarrow import csv  # here: it takes some ms to import

    nested = [field.name for field in schema if _flat(field.type) is None]
    if nested:
        raise NotAcceptable(
            f"CSV has no way to tell column {nested[0]!r}, {schema.field(nested[0]).type}",
            hint="ask for an Arrow stream or JSON, or take its parts out by SQL",
        )
    return _csv_pieces(csv, pa.schema([(field.name, _flat(field.type)) for field in schema]), pieces)


def _csv_pieces(csv: object, schema: pa.Schema, pieces: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    sink = _Sink()
    writer = csv.CSVWriter(pa.PythonFile(sink, mode="w"), schema)  # type: ignore[attr-defined]  # a module
    yield sink.take()
    for piece in pieces:
        columns = [_flat_column(column, field.type) for column, field in zip(piece.columns, schema, strict=True)]
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        yield sink.take()
    writer.close()
    yield sink.take()


@lru_cache(maxsize=1000)
def _flat(kind: pa.DataType) -> pa.DataType | None:
    """Return the type as which CSV has a column, None where it has none."""
    if isinstance(kind, pa.BaseExtensionType):
        return _flat(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _flat(kind.value_type)
    if pa.types.is_string_view(kind) or _is_binary(kind):
        return pa.string()
    if pa.types.is_duration(kind):
        return pa.float64()
    return None if pa.types.is_nested(kind) or pa.types.is_interval(kind) else kind


def _flat_column(column: pa.Array, kind: pa.DataType) -> pa.Array:
    column = _plain(column)
    if _is_binary(column.type):
        return pa.array(_base64(column), pa.string())
    if pa.types.is_duration(column.type):
        return _seconds(column)
    return column if column.type == kind else column.cast(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


# -- JSON -------------------------------------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode


def _joined(piece: pa.RecordBatch, between: str) -> bytes:
    """Return the rows of `piece` as JSON objects. Arrow puts them together: ten times faster than Python does."""
    if not piece.num_columns:
        return between.join(["{}"] * piece.num_rows).encode()
    parts: list[object] = []
    for name, column in zip(piece.schema.names, piece.columns, strict=True):
        parts += ["," if parts else "{", f"{_encode(name)}:", pc.fill_null(_json_texts(_plain(column)), "null")]
    rows = pc.binary_join_element_wise(*parts, "}", "")
    whole = pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows)
    joined: bytes = pc.binary_join(whole, between)[0].as_buffer().to_pybytes()
    return joined


def _json_texts(column: pa.Array) -> pa.Array:
    """Return the values of `column` as JSON texts; nulls stay."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, None).cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        text = column.cast(pa.string())
        if not pc.any(pc.match_substring_regex(text, r'["\\\x00-\x1f]')).as_py():
            return pc.binary_join_element_wise('"', text, '"', "")
    cells = (None if cell is None else _encode(cell) for cell in json_cells(column))
    return pa.array(cells, pa.string(), size=len(column))


def _array(pieces: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    before = b"["
    for piece in pieces:
        yield before + _joined(piece, ",\n")
        before = b",\n"
    yield b"[]\n" if before == b"[" else b"]\n"


def json_cells(column: pa.Array) -> list[object]:
    """Return the values of `column` as JSON has them.

    >>> json_cells(pa.array([[1.5, float("nan")], None])), json_cells(pa.array([b"x"]))
    ([[1.5, None], None], ['eA=='])
    """
    column = _plain(column)
    for fits, cells in _WAYS:
        if fits(column.type):
            return cells(column)
    found: list[object] = column.to_pylist()  # integers, booleans, text
    return found


def _plain(column: pa.Array) -> pa.Array:
    """Return `column` without what only changes how it is stored."""
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        else:
            return column


def _reals(column: pa.Array) -> list[object]:
    if column.type == pa.float16():
        column = column.cast(pa.float32())
    found: list[object] = pc.if_else(pc.is_finite(column), column, None).to_pylist()
    return found


def _base64(column: pa.Array) -> list[object]:
    return [None if cell is None else base64.b64encode(cell).decode() for cell in column.to_pylist()]


def _seconds(column: pa.Array) -> pa.Array:
    return pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), float(_UNITS_A_SECOND[column.type.unit]))


def _timestamps(column: pa.Array) -> list[object]:
    text = pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
    if column.type.tz is not None:  # ISO 8601 writes an offset as the time: with a colon
        text = pc.replace_substring_regex(text, r"([+-]\d\d)(\d\d)$", r"\1:\2")
    found: list[object] = text.to_pylist()
    return found


def _texts(column: pa.Array) -> list[object]:
    found: list[object] = column.cast(pa.string()).to_pylist()
    return found


def _lists(column: pa.Array) -> list[object]:
    cells = json_cells(column.flatten())  # those of nulls are not among them
    found: list[object] = []
    start = 0
    for length in pc.list_value_length(column).to_pylist():
        found.append(None if length is None else cells[start : start + length])
        start += length or 0
    return found


def _maps(column: pa.Array) -> list[object]:
    pairs = pa.list_(pa.struct([("key", column.type.key_type), ("value", column.type.item_type)]))
    rows = _lists(column.cast(pairs))
    return [None if row is None else [[pair["key"], pair["value"]] for pair in row] for row in rows]  # type: ignore[attr-defined]


def _structs(column: pa.Array) -> list[object]:
    names = [column.type.field(index).name for index in range(column.type.num_fields)]
    parts = [json_cells(part) for part in column.flatten()]
    rows = zip(*parts, strict=True) if parts else ((),) * len(column)
    present = column.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if valid else None for row, valid in zip(rows, present, strict=True)]


def _unions(column: pa.Array) -> list[object]:
    return [json_cells(pa.array([cell.value.as_py()], cell.value.type))[0] for cell in column]


def _intervals(column: pa.Array) -> list[object]:
    return [None if cell is None else list(cell) for cell in column.to_pylist()]


_WAYS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[object]]], ...] = (
    (pa.types.is_floating, _reals),
    (_is_binary, _base64),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_duration, lambda column: _seconds(column).to_pylist()),
    (pa.types.is_interval, _intervals),
    (pa.types.is_temporal, _texts),
    (pa.types.is_decimal, _texts),
    (pa.types.is_map, _maps),
    (pa.types.is_struct, _structs),
    (pa.types.is_union, _unions),
    (pa.types.is_nested, _lists),
)
