"""What Flight SQL's clients ask about a store: its tables, their kinds and columns, and what the server can do."""

from __future__ import annotations

import re
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from eau2.errors import KeyMissing, WrongKind
from eau2.values.key import KEY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from eau2.store.store import Store

    Ask = Callable[[Store, Any], Iterator[pa.RecordBatch]]

CATALOG = ""  # the only one: names have none, and the engine takes "public"."trips" as it takes "trips"
SCHEMA = "public"
TABLE_TYPE = "TABLE"
TABLES_PER_BATCH = 1_000
ESCAPE = "\\"


class Answer(NamedTuple):
    """What is asked for: its columns, which are known at once, and its rows."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]


def _schema(text: str) -> pa.Schema:
    """Return the columns in `text`, as `name type` each; `?` marks those that may be null."""
    kinds = {"text": pa.utf8(), "int32": pa.int32(), "uint8": pa.uint8(), "bool": pa.bool_(), "bytes": pa.binary()}
    kinds["texts"] = pa.list_(pa.field("item", pa.utf8(), nullable=False))
    pairs = [column.split() for column in text.split(",")]
    return pa.schema([pa.field(name, kinds[kind.rstrip("?")], nullable=kind.endswith("?")) for name, kind in pairs])


_CATALOGS = _schema("catalog_name text")
_DB_SCHEMAS = _schema("catalog_name text?, db_schema_name text")
_TABLE_TYPES = _schema("table_type text")
_TABLES = _schema("catalog_name text?, db_schema_name text?, table_name text, table_type text")
_TABLES_WITH_SCHEMA = _TABLES.append(pa.field("table_schema", pa.binary(), nullable=False))
_PRIMARY_KEYS = _schema(
    "catalog_name text?, db_schema_name text?, table_name text, column_name text, key_sequence int32, key_name text?"
)
_FOREIGN_KEYS = _schema(
    "pk_catalog_name text?, pk_db_schema_name text?, pk_table_name text, pk_column_name text, fk_catalog_name text?,"
    "fk_db_schema_name text?, fk_table_name text, fk_column_name text, key_sequence int32, fk_key_name text?,"
    "pk_key_name text?, update_rule uint8, delete_rule uint8"
)
_XDBC_TYPES = _schema(
    "type_name text, data_type int32, column_size int32?, literal_prefix text?, literal_suffix text?,"
    "create_params texts?, nullable int32, case_sensitive bool, searchable int32, unsigned_attribute bool?,"
    "fixed_prec_scale bool, auto_increment bool?, local_type_name text?, minimum_scale int32?, maximum_scale int32?,"
    "sql_data_type int32, datetime_subcode int32?, num_prec_radix int32?, interval_precision int32?"
)
_VALUE = pa.dense_union(
    [
        pa.field("string_value", pa.utf8()),
        pa.field("bool_value", pa.bool_()),
        pa.field("bigint_value", pa.int64()),
        pa.field("int32_bitmask", pa.int32()),
        pa.field("string_list", pa.list_(pa.utf8())),
        pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
    ]
)
_SQL_INFO = pa.schema([pa.field("info_name", pa.uint32(), nullable=False), pa.field("value", _VALUE, nullable=False)])
_TEXT, _BOOL, _INT64, _INT32 = range(4)  # the first fields of `_VALUE`


def answer(store: Store, name: str, command: Any) -> Answer | None:
    """Return the answer to `command`, a message called `name`; None where it asks nothing of the catalog."""
    if name == "CommandGetTables":
        schema = _TABLES_WITH_SCHEMA if command.include_schema else _TABLES
        return Answer(schema, lambda: _tables(store, command, schema))
    if name not in _ASKED:
        return None
    schema, rows = _ASKED[name]
    return Answer(schema, lambda: rows(store, command))


def is_named(name: object, pattern: str) -> bool:
    """Whether `pattern`, of LIKE, stands for `name`; it also stands for the name that is the same text.

    >>> is_named("trips", "t%s"), is_named("trips", "t_"), is_named("a_b", r"a\\_b"), is_named("axb", r"a\\_b")
    (True, False, True, False)
    """
    return name == pattern or _like(pattern).fullmatch(str(name)) is not None


def _like(pattern: str) -> re.Pattern[str]:
    parts = [""]  # between `%`
    letters = iter(pattern)
    for letter in letters:
        if letter == "%":
            parts.append("")
        elif letter == "_":
            parts[-1] += "."
        else:
            parts[-1] += re.escape(next(letters, letter) if letter == ESCAPE else letter)
    if len(parts) == 1:
        return re.compile(parts[0], re.DOTALL)
    # As in `eau2.doors.patterns`: the first place where a part fits is as good as any later one.
    middle = "".join(f"(?>.*?{part})" for part in parts[1:-1])
    return re.compile(f"{parts[0]}{middle}.*{parts[-1]}", re.DOTALL)


def is_here(command: Any, catalog: str, schema: str) -> bool:
    """Whether the optional fields `catalog` and `schema` of `command` leave our catalog and schema."""
    if command.HasField(catalog) and getattr(command, catalog) != CATALOG:
        return False
    return not command.HasField(schema) or is_named(SCHEMA, getattr(command, schema))


def _tables(store: Store, command: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    names: Iterable[str] = ()
    is_asked_for = not command.table_types or TABLE_TYPE in command.table_types
    if is_asked_for and is_here(command, "catalog", "db_schema_filter_pattern"):
        names = _names(store, command)
    rows = _rows(store, names, with_schema=command.include_schema)
    while some := list(islice(rows, TABLES_PER_BATCH)):
        yield pa.RecordBatch.from_pylist(some, schema=schema)


def _names(store: Store, command: Any) -> Iterable[str]:
    if not command.HasField("table_name_filter_pattern"):
        return store.node.frames()
    pattern = command.table_name_filter_pattern
    like = _like(pattern)
    matched = [name for name in store.node.frames() if name == pattern or like.fullmatch(name)]
    # ADBC's driver looks for the columns of one table in the first batch, and gives its name as a pattern.
    matched.sort(key=lambda name: name != pattern)
    return matched


def _rows(store: Store, names: Iterable[str], *, with_schema: bool) -> Iterator[dict[str, object]]:
    for name in names:
        row: dict[str, object] = {
            "catalog_name": CATALOG,
            "db_schema_name": SCHEMA,
            "table_name": name,
            "table_type": TABLE_TYPE,
        }
        if with_schema:
            try:
                row["table_schema"] = store.frame(name).schema.serialize().to_pybytes()
            except (KeyMissing, WrongKind):  # it went meanwhile
                continue
        yield row


def _db_schemas(store: Store, command: Any) -> Iterator[pa.RecordBatch]:
    del store
    here = is_here(command, "catalog", "db_schema_filter_pattern")
    yield pa.RecordBatch.from_pydict(
        {"catalog_name": [CATALOG] * here, "db_schema_name": [SCHEMA] * here}, schema=_DB_SCHEMAS
    )


def _one(schema: pa.Schema, value: str) -> Ask:
    return lambda store, command: iter([pa.record_batch([[value]], schema=schema)])


def _nothing(store: Store, command: Any) -> Iterator[pa.RecordBatch]:
    del store, command
    return iter(())


def _facts() -> dict[int, tuple[int, object]]:
    """Return what GetSqlInfo tells, by its number in the specification."""
    return {
        0: (_TEXT, "eau2"),
        1: (_TEXT, version("eau2")),
        2: (_TEXT, pa.__version__),
        3: (_BOOL, False),  # read-only
        4: (_BOOL, True),  # SQL
        5: (_BOOL, False),  # Substrait
        8: (_INT32, 0),  # no transactions
        9: (_BOOL, False),  # a query is cancelled by ending its stream
        10: (_BOOL, True),  # bulk ingestion
        11: (_BOOL, False),  # in transactions
        100: (_INT32, 0),  # statements are given no time
        101: (_INT32, 0),
        500: (_BOOL, False),  # CREATE CATALOG, SCHEMA, TABLE
        501: (_BOOL, False),
        502: (_BOOL, False),
        503: (_INT32, 3),  # names without quotes become lower case
        504: (_TEXT, '"'),
        506: (_BOOL, True),  # all tables can be read
        507: (_INT32, 0),  # nulls are sorted high
        513: (_TEXT, ESCAPE),
        515: (_BOOL, True),  # AS
        516: (_BOOL, True),  # null + 1 is null
        518: (_BOOL, True),  # names of tables in a query
        520: (_BOOL, True),  # ORDER BY takes expressions,
        521: (_BOOL, True),  # and columns that are not selected
        529: (_TEXT, "schema"),
        536: (_BOOL, False),  # SELECT FOR UPDATE
        537: (_BOOL, False),  # stored procedures
        559: (_INT64, KEY_BYTES_MAX),  # of the name of a table
        562: (_INT32, 0),
        563: (_BOOL, False),  # transactions
        572: (_BOOL, False),
        573: (_BOOL, False),
    }


def _sql_info(store: Store, command: Any) -> Iterator[pa.RecordBatch]:
    del store
    facts = _facts()
    wanted = dict.fromkeys(command.info) if command.info else facts
    numbers = [number for number in wanted if number in facts]
    columns: list[list[object]] = [[] for _ in range(_VALUE.num_fields)]
    kinds, offsets = [], []
    for number in numbers:
        kind, value = facts[number]
        kinds.append(kind)
        offsets.append(len(columns[kind]))
        columns[kind].append(value)
    values = pa.UnionArray.from_dense(
        pa.array(kinds, pa.int8()),
        pa.array(offsets, pa.int32()),
        [pa.array(column, field.type) for column, field in zip(columns, _VALUE, strict=True)],
        [field.name for field in _VALUE],
    )
    yield pa.record_batch([pa.array(numbers, pa.uint32()), values], schema=_SQL_INFO)


_ASKED: dict[str, tuple[pa.Schema, Ask]] = {
    "CommandGetSqlInfo": (_SQL_INFO, _sql_info),
    "CommandGetCatalogs": (_CATALOGS, _one(_CATALOGS, CATALOG)),
    "CommandGetDbSchemas": (_DB_SCHEMAS, _db_schemas),
    "CommandGetTableTypes": (_TABLE_TYPES, _one(_TABLE_TYPES, TABLE_TYPE)),
    "CommandGetPrimaryKeys": (_PRIMARY_KEYS, _nothing),
    "CommandGetExportedKeys": (_FOREIGN_KEYS, _nothing),
    "CommandGetImportedKeys": (_FOREIGN_KEYS, _nothing),
    "CommandGetCrossReference": (_FOREIGN_KEYS, _nothing),
    "CommandGetXdbcTypeInfo": (_XDBC_TYPES, _nothing),
}
