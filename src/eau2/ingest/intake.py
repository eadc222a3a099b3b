"""Whatever is a table becomes a schema and a stream of batches, with memory bounded by a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized

import pyarrow as pa

from eau2.errors import InvalidValue

ROWS_PER_BATCH_MAX = 65_536
BATCH_BYTES = 4 << 20  # rows given one by one are gathered to about this

Batches = tuple[pa.Schema, Iterator[pa.RecordBatch]]


def batches_of(value: object, schema: pa.Schema | None = None) -> Batches:
    """Return the schema of `value` and its rows as batches.

    `value`: pyarrow Table, RecordBatch or reader; pandas or Polars frame; mapping of columns; anything with
    `__arrow_c_stream__`; iterable of record batches; iterable of rows (mappings or sequences), which needs `schema`.
    With `schema`, tables are cast to it. InvalidValue says what is wrong, and with which batch, row or column.
    """
    return cast_batches(*_batches_of(value, schema), schema)


def cast_batches(found: pa.Schema, batches: Iterator[pa.RecordBatch], schema: pa.Schema | None) -> Batches:
    """Return `batches`, whose schema is `found`, cast to `schema` if there is one."""
    if schema is None or found.equals(schema, check_metadata=False):
        return found, batches
    return schema, _cast(batches, schema)


def _batches_of(value: object, schema: pa.Schema | None) -> Batches:
    if isinstance(value, pa.Table):
        return value.schema, iter(value.to_batches() or [])
    if isinstance(value, pa.RecordBatch):
        return value.schema, iter([value])
    if isinstance(value, Mapping):
        table = _columns(value, schema)
        return table.schema, iter(table.to_batches())
    package = type(value).__module__.partition(".")[0]
    if package == "pandas" and type(value).__name__ == "DataFrame":
        return _batches_of(_from_pandas(value, schema), None)
    if package == "polars" and type(value).__name__ == "DataFrame":
        return _batches_of(value.to_arrow(), None)  # type: ignore[attr-defined]  # large_string: its stream has views
    if hasattr(value, "__arrow_c_stream__") and package not in ("pandas", "polars"):
        return _stream(value)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and package not in ("pandas", "polars"):
        return _iterable(value, schema)
    raise InvalidValue(
        f"a value is bytes or a table, not {type(value).__module__}.{type(value).__qualname__}",
        hint=_hint(value, package),
    )


def _hint(value: object, package: str) -> str:
    if isinstance(value, str):
        return "encode text: value.encode()"
    if package == "polars" and type(value).__name__ == "LazyFrame":
        return "call .collect() first"
    if package in ("pandas", "polars") and type(value).__name__ == "Series":
        return "call .to_frame() first"
    return "a table is anything with __arrow_c_stream__, a pandas or Polars frame, a dict of columns, an iterator"


def _from_pandas(value: object, schema: pa.Schema | None) -> pa.Table:
    try:
        return pa.Table.from_pandas(value, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(
            f"the pandas frame is no Arrow table: {_text(error)}", hint="give each column its own name, and one type"
        ) from error


def _columns(value: Mapping[object, object], schema: pa.Schema | None) -> pa.Table:
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name, column in value.items():
        if not isinstance(name, str):
            raise InvalidValue(f"column names are text, not {type(name).__name__}: {name!r:.80}")
        arrays[name] = _column(name, column, schema)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        first = next(iter(lengths))
        other = next(name for name in lengths if lengths[name] != lengths[first])
        raise InvalidValue(
            f"columns differ in length: {first!r} has {lengths[first]} values, {other!r} {lengths[other]}",
            hint="give every column as many values",
        )
    return pa.table(arrays)


def _column(name: str, column: object, schema: pa.Schema | None) -> pa.Array | pa.ChunkedArray:
    if isinstance(column, (str, bytes)) or not isinstance(column, (Iterable, Sized)):
        raise InvalidValue(f"column {name!r} is {type(column).__name__}, not a sequence of values")
    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        return column
    type_ = schema.field(name).type if schema is not None and name in schema.names else None
    try:
        return pa.array(list(column) if isinstance(column, Iterator) else column, type=type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(
            f"column {name!r} is no Arrow column: {_text(error)}", hint="give the column values of one type"
        ) from error


def _stream(value: object) -> Batches:
    try:
        reader = value if isinstance(value, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(value)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidValue(f"{type(value).__name__}.__arrow_c_stream__ gives no table: {_text(error)}") from error
    return reader.schema, _read(reader, type(value).__name__)


def _read(reader: pa.RecordBatchReader, name: str) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            raise InvalidValue(f"{name} gives no more rows: {_text(error)}") from error
        yield batch


def _iterable(value: Iterable[object], schema: pa.Schema | None) -> Batches:
    items = iter(value)
    first = next(items, None)
    if first is None:
        if schema is None:
            raise InvalidValue("an iterator without a first item has no columns", hint="pass schema=")
        return schema, iter([])
    items = itertools.chain([first], items)
    if isinstance(first, (pa.RecordBatch, pa.Table)):
        return first.schema, _same_schema(items, first.schema)
    if not isinstance(first, (Mapping, Sequence)) or isinstance(first, (str, bytes)):
        raise InvalidValue(
            f"an iterator gives record batches or rows, not {type(first).__name__}", hint="rows are dicts or tuples"
        )
    if schema is None:
        raise InvalidValue("rows need schema=", hint="for example schema=pyarrow.schema({'id': pyarrow.int64()})")
    return schema, _rows(items, schema)


def _same_schema(items: Iterator[object], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for number, item in enumerate(items):
        if not isinstance(item, (pa.RecordBatch, pa.Table)):
            raise InvalidValue(f"item {number} is {type(item).__name__}, the items before were record batches")
        if not item.schema.equals(schema):
            raise InvalidValue(
                f"batch {number} has other columns than batch 0: {_short(item.schema)}, not {_short(schema)}"
            )
        yield from item.to_batches() if isinstance(item, pa.Table) else [item]


def _rows(items: Iterator[object], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    start, count = 0, 64  # few at first: rows may be large
    while rows := list(itertools.islice(items, count)):
        batch = _batch_of_rows(rows, schema, start)
        yield batch
        start += len(rows)
        row_bytes = max(1, batch.nbytes // len(rows))
        count = max(1, min(ROWS_PER_BATCH_MAX, BATCH_BYTES // row_bytes, count * 8))


def _batch_of_rows(rows: list[object], schema: pa.Schema, start: int) -> pa.RecordBatch:
    names = schema.names
    known = set(names)
    columns: list[list[object]] = [[] for _ in names]
    for number, row in enumerate(rows, start):
        if isinstance(row, Mapping):
            if not known.issuperset(row):
                unknown = next(name for name in row if name not in known)
                raise InvalidValue(f"row {number} has a value for {unknown!r}, which is no column of schema=")
            values: Iterable[object] = map(row.get, names)
        elif isinstance(row, Sequence) and not isinstance(row, (str, bytes)):
            if len(row) != len(names):
                raise InvalidValue(f"row {number} has {len(row)} values for {len(names)} columns")
            values = row
        else:
            raise InvalidValue(f"row {number} is {type(row).__name__}, not a dict or tuple")
        for column, cell in zip(columns, values, strict=True):
            column.append(cell)
    arrays = [_cells(field, column, start) for field, column in zip(schema, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cells(field: pa.Field, cells: list[object], start: int) -> pa.Array:
    try:
        return pa.array(cells, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        for number, cell in enumerate(cells, start):
            try:
                pa.array([cell], field.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise InvalidValue(
                    f"row {number}, column {field.name!r}: {cell!r:.80} is no {field.type}: {_text(error)}"
                ) from error
        raise


def _cast(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if batch.schema.names != schema.names:
            raise InvalidValue(f"the table has the columns {batch.schema.names}, schema= has {schema.names}")
        try:
            yield from pa.Table.from_batches([batch]).cast(schema).to_batches()
        except (pa.ArrowException, ValueError) as error:
            raise InvalidValue(f"the table cannot be cast to schema=: {_text(error)}") from error


def _short(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)[:200]


def _text(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]
