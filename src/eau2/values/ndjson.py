"""One JSON object a line to typed columns, a block of whole lines at a time, with an account of every line.

Arrow's JSON reader parses; when it refuses a block, or finds more or fewer objects than lines, the lines are looked at
one by one, the bad ones are taken out, and the rest is read again. Names absent from an object are missing.
"""

from __future__ import annotations

import json as text_json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json

from eau2.values.block import Block, Reject, Widening

_REFUSALS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError)
_BLANKS = b" \t\r\n"
_INTS_BELOW = 2**63  # whole numbers beyond are kept as text: as FLOAT they would lose digits
_LONG = re.compile(rb"[0-9]{19}")


@dataclass(frozen=True)
class Ndjson:
    """How to read NDJSON: `given` is the caller's schema, and then other names in a line are bad.

    See eau2.values.block.Lines. Without one, a value that its column cannot hold, and a new name, widen the schema
    when `widen`; where no Arrow type holds both kinds the column becomes STRING, and what is no text is kept as JSON.
    So it does where whole numbers are beyond 64 bits; inside of lists and objects those lose digits.
    """

    given: pa.Schema | None = None
    widen: bool = True

    @property
    def may_widen(self) -> bool:
        return self.widen and self.given is None

    def infer(self, head: bytes) -> pa.Schema:
        if self.given is not None:
            return self.given
        lines = [line for line in head.split(b"\n") if _object(line)]
        return _widest(pa.schema([]), lines)

    def parse(self, data: bytes | pa.Buffer, schema: pa.Schema) -> Block:
        data = bytes(data)
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        blank = sum(1 for line in lines if not line.strip(_BLANKS))
        batch = None if _has_null_line(data, lines) else _read(data, schema, len(lines) - blank)
        if batch is not None and not (self.may_widen and _loses_digits(batch, lines)):
            return Block(schema, len(lines), batch.num_rows, blank, batches=[batch])
        return self._look(lines, Block(schema, len(lines), 0, blank))

    def _look(self, lines: list[bytes], block: Block) -> Block:
        good: list[tuple[int, bytes]] = []
        for number, line in enumerate(lines, 1):
            if reason := _why_bad(line):
                block.rejects.append(Reject(number, 0, reason, line))
            elif line.strip(_BLANKS):
                good.append((number, line))
        batch = _read_lines([line for _, line in good], block.schema)
        if self.may_widen and (batch is None or _loses_digits(batch, [line for _, line in good])):
            _widen(good, block)
            batch = _read_lines([line for _, line in good], block.schema)
        if batch is None:
            good = [(number, line) for number, line in good if not _refuse(number, line, block)]
            batch = _read_lines([line for _, line in good], block.schema)
        assert batch is not None
        block.rejects.sort(key=lambda reject: reject.line)
        block.rows, block.batches = len(good), [batch]
        return block


def _has_null_line(data: bytes, lines: list[bytes]) -> bool:
    """Whether a line is `null`: Arrow takes it for an object of nulls, and without columns it crashes there."""
    return b"null" in data and any(line.lstrip(_BLANKS).startswith(b"null") for line in lines)


def _refuse(number: int, line: bytes, block: Block) -> bool:
    """Whether `line` alone does not fit; then it is added to the rejects."""
    if _read_lines([line], block.schema) is not None:
        return False
    found = _object(line) or {}
    names = block.schema.names
    extra = next((name for name in found if name not in names), None)
    if extra is not None:
        block.rejects.append(Reject(number, 0, f"no column {extra!r}", line))
        return True
    for index, name in enumerate(names):
        one = text_json.dumps({name: found.get(name)}).encode()
        if _read_lines([one], pa.schema([block.schema.field(index)])) is None:
            block.rejects.append(
                Reject(number, index + 1, f"{one.decode():.60} is no {block.schema.types[index]}", line)
            )
            return True
    block.rejects.append(Reject(number, 0, "does not fit the schema", line))
    return True


# -- reading ----------------------------------------------------------------------------------------------------------


def _read(data: bytes, schema: pa.Schema, rows: int) -> pa.RecordBatch | None:
    """Return the `rows` objects in `data` as a batch; None when there are not so many or one does not fit."""
    if not rows:
        return schema.empty_table().combine_chunks().to_batches()[0] if schema.names else None
    try:
        if not data.isascii():
            data.decode()  # Arrow does not look whether text is UTF-8
        table = json.read_json(
            pa.BufferReader(data),
            read_options=json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
    except _REFUSALS:
        return None
    if table.num_rows != rows:
        return None
    return table.combine_chunks().to_batches()[0] if table.num_rows and table.num_columns else None


def _read_lines(lines: list[bytes], schema: pa.Schema) -> pa.RecordBatch | None:
    if not lines:
        return pa.RecordBatch.from_pylist([], schema=schema)
    if not schema.names:
        return None
    batch = _read(b"\n".join(lines) + b"\n", schema, len(lines))
    if batch is not None or pa.string() not in schema.types:
        return batch
    texts = {field.name for field in schema if field.type == pa.string()}
    return _read(b"\n".join(_as_text(line, texts) for line in lines) + b"\n", schema, len(lines))


def _as_text(line: bytes, texts: set[str]) -> bytes:
    """Return `line` with what is under the names `texts`, and is no text, as JSON in quotes."""
    found = text_json.loads(line)
    for name in texts & found.keys():
        if found[name] is not None and not isinstance(found[name], str):
            found[name] = text_json.dumps(found[name], ensure_ascii=False)
    return text_json.dumps(found, ensure_ascii=False).encode(errors="surrogatepass")  # which `_read` refuses


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = text_json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _why_bad(line: bytes) -> str:
    if not line.strip(_BLANKS):
        return ""
    try:
        line.decode()  # json takes half a surrogate pair for text
        found = text_json.loads(line)
    except UnicodeDecodeError:
        return "not valid UTF-8"
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(found, dict):
        return "not a JSON object"
    return "" if _widest_of(line) is not None else "not a JSON object that Arrow can hold"


# -- widening ---------------------------------------------------------------------------------------------------------


def _widest_of(line: bytes) -> pa.Schema | None:
    try:
        return json.read_json(pa.BufferReader(line)).schema
    except _REFUSALS:
        return None


def _widest(schema: pa.Schema, lines: list[bytes]) -> pa.Schema:
    """Return the narrowest schema that holds `schema` and all of `lines`."""
    for line in [b"\n".join(lines)] if lines else []:
        seen = _widest_of(line)
        joined = None if seen is None else _with_digits(_join(schema, seen), lines)
        if joined is not None and _read_lines(lines, joined) is not None:
            return joined
    for line in lines:
        seen = _widest_of(line)
        if seen is not None:
            schema = _join(schema, seen)
    return _with_digits(schema, lines)


def _with_digits(schema: pa.Schema, lines: list[bytes]) -> pa.Schema:
    """Return `schema` with STRING for the FLOAT columns in which a whole number of `lines` would lose digits."""
    if pa.float64() not in schema.types:
        return schema
    long = _long_numbers(lines)
    lossy = [field.type == pa.float64() and field.name in long for field in schema]
    return pa.schema(
        [field.with_type(pa.string()) if lost else field for field, lost in zip(schema, lossy, strict=True)]
    )


def _long_numbers(lines: list[bytes]) -> set[str]:
    """Return the names under which `lines` have whole numbers beyond 64 bits."""
    found = (_object(line) or {} for line in lines if _LONG.search(line))
    return {
        name
        for each in found
        for name, value in each.items()
        if type(value) is int and not -_INTS_BELOW <= value < _INTS_BELOW
    }


def _loses_digits(batch: pa.RecordBatch, lines: list[bytes]) -> bool:
    """Whether `batch`, which was read from `lines`, has a whole number beyond 64 bits as FLOAT."""
    floats = {
        field.name
        for field, column in zip(batch.schema, batch.columns, strict=True)
        if field.type == pa.float64() and _is_large(column)
    }
    return bool(floats) and not floats.isdisjoint(_long_numbers(lines))


def _is_large(column: pa.Array) -> bool:
    bounds = pc.min_max(column).as_py().values()
    return any(bound is not None and abs(bound) >= _INTS_BELOW for bound in bounds)


def _join(old: pa.Schema, seen: pa.Schema) -> pa.Schema:
    fields = {field.name: field for field in old}
    for field in seen:
        known = fields.get(field.name)
        fields[field.name] = field if known is None else known.with_type(_join_types(known.type, field.type))
    return pa.schema(list(fields.values()))


def _join_types(old: pa.DataType, seen: pa.DataType) -> pa.DataType:
    if old == seen or pa.types.is_null(seen):
        return old
    if pa.types.is_null(old):
        return seen
    if pa.types.is_string(old) or pa.types.is_string(seen):
        return pa.string()
    try:
        joined = pa.unify_schemas(
            [pa.schema([("", old)]), pa.schema([("", seen)])], promote_options="permissive"
        ).types[0]
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.string()
    return joined


def _widen(good: list[tuple[int, bytes]], block: Block) -> None:
    """Widen the block's schema to hold all `good` lines, and say which line needed each step first."""
    before = block.schema
    block.schema = _widest(before, [line for _, line in good])
    for field in block.schema:
        index = before.get_field_index(field.name)
        old = None if index < 0 else before.types[index]
        if old == field.type:
            continue
        line = next((number for number, line in good if _needs(line, field.name, old)), good[0][0])
        block.widened.append(Widening(field.name, old, field.type, line))


def _needs(line: bytes, name: str, old: pa.DataType | None) -> bool:
    found = _object(line) or {}
    if name not in found:
        return False
    if old is None:
        return True
    if old == pa.float64() and name in _long_numbers([line]):
        return True
    one = text_json.dumps({name: found[name]}).encode() + b"\n"
    return _read(one, pa.schema([(name, old)]), 1) is None
