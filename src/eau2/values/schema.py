"""The four SoR types, column names, and what a caller may give as `schema=`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from eau2.errors import InvalidOption

BOOL, INT, FLOAT, STRING = pa.bool_(), pa.int64(), pa.float64(), pa.string()
SOR_TYPES: dict[str, pa.DataType] = {"BOOL": BOOL, "INT": INT, "FLOAT": FLOAT, "STRING": STRING}  # narrow to wide
_PYTHON_TYPES: dict[object, pa.DataType] = {bool: BOOL, int: INT, float: FLOAT, str: STRING}
_HINT = (
    "give a pyarrow schema, a mapping of names to types, a list of names, a list of types or a list of (name, type);"
    " a type is BOOL, INT, FLOAT, STRING or a pyarrow type"
)


def type_name(type_: pa.DataType) -> str:
    """Return BOOL, INT, FLOAT or STRING for those four, else Arrow's own name.

    >>> type_name(pa.int64()), type_name(pa.date32())
    ('INT', 'date32[day]')
    """
    return next((name for name, known in SOR_TYPES.items() if known == type_), str(type_))


def column_names(count: int) -> list[str]:
    """Return the names of columns that nobody named: c0, c1, ..."""
    return [f"c{index}" for index in range(count)]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller said of the columns: names, types or both, of equal length."""

    names: tuple[str, ...] | None = None
    types: tuple[pa.DataType, ...] | None = None
    headless: bool = False  # the file has no line of names: a list of names, or of pairs, stands in for it

    def schema(self) -> pa.Schema:
        """The Arrow schema, when the types are known."""
        assert self.types is not None
        names = self.names if self.names is not None else column_names(len(self.types))
        return pa.schema(list(zip(names, self.types, strict=True)))


def wanted(schema: object) -> Wanted:
    """Return what `schema` says. Names alone leave types to inference. InvalidOption when it is none of these:

    a pyarrow schema; a mapping name -> type; a list of names; a list of types; a list of (name, type). A type is one of
    BOOL INT FLOAT STRING, a pyarrow type or its name, or Python's bool, int, float, str.

    >>> wanted({"id": "INT", "name": str}).types
    (DataType(int64), DataType(string))
    """
    if schema is None:
        return Wanted()
    if isinstance(schema, pa.Schema):
        return _checked(Wanted(tuple(schema.names), tuple(schema.types)))
    if isinstance(schema, Mapping):
        return _checked(_named(list(schema.items()), headless=False))
    if not isinstance(schema, Sequence) or isinstance(schema, (str, bytes)):
        raise InvalidOption(f"schema= cannot be {type(schema).__name__}: {schema!r:.80}", hint=_HINT)
    items = list(schema)
    if items and all(isinstance(item, tuple) and len(item) == 2 for item in items):
        return _checked(_named(items, headless=True))
    if items and all(item in SOR_TYPES if isinstance(item, str) else True for item in items):
        return Wanted(types=tuple(_type(item) for item in items))
    return _checked(Wanted(tuple(_name(item) for item in items), headless=True))


def arrow_schema(schema: object) -> pa.Schema:
    """Return the Arrow schema that `schema` describes, names and types. InvalidOption for names without types."""
    if isinstance(schema, pa.Schema):
        return schema
    found = wanted(schema)
    if found.types is None:
        raise InvalidOption("schema= has names but no types", hint='give a mapping such as {"id": "INT"}')
    return found.schema()


def _named(items: Sequence[tuple[object, object]], *, headless: bool) -> Wanted:
    return Wanted(tuple(_name(name) for name, _ in items), tuple(_type(type_) for _, type_ in items), headless)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidOption(f"a column name in schema= is text, not {type(name).__name__}: {name!r:.80}", hint=_HINT)
    return name


def _type(given: object) -> pa.DataType:
    if isinstance(given, pa.DataType):
        return given
    if isinstance(given, type) and given in _PYTHON_TYPES:
        return _PYTHON_TYPES[given]
    if isinstance(given, str):
        if given.upper() in SOR_TYPES:
            return SOR_TYPES[given.upper()]
        try:
            return pa.type_for_alias(given)
        except ValueError:
            pass
    raise InvalidOption(f"schema= has no such type: {given!r:.80}", hint=_HINT)


def _checked(found: Wanted) -> Wanted:
    names = found.names or ()
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise InvalidOption(f"schema= names the column {twice!r} twice", hint="give each column its own name")
    return found
