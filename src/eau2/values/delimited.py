"""CSV and TSV to typed columns, a block of whole records at a time, with an account of every record.

Arrow's CSV reader parses; what it refuses is looked at again. A record may span lines when its quoted values hold line
ends, so the account counts records, and the numbers in it are those of the line on which a record starts. An empty
value without quotes is missing; in columns that are not STRING the usual words (NA, null, nan, ...) are too. Whole
numbers beyond 64 bits make a column STRING, unless its type is given: as FLOAT they would lose digits. A record whose
quote is not closed before the text ends is bad.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from eau2.values.block import Block, Reject, Widening
from eau2.values.quotes import line_count, line_ends, split_records, unclosed
from eau2.values.schema import type_name

_TOGETHER_MIN = 8  # texts that are tried together before each is by itself
_REFUSED = re.compile(r"In CSV column #(\d+): ")
_WORDS = csv.ConvertOptions().null_values
_TEXTS = pa.string(), pa.binary()
_WHOLE_NUMBER = re.compile(rb"[ \t]*[+-]?[0-9]+[ \t]*")
_EXACT_BELOW = 2.0**63  # whole numbers up to here are INT
_NEVER = pa.ArrowInvalid, pa.ArrowNotImplementedError


@dataclass
class _Attempt:
    """One way to read a block: the columns' types, of which binary ones are looked at value by value later."""

    types: list[pa.DataType | None]  # None: to be inferred
    only: list[int] | None = None
    words: bool = False  # whether NA and the like are missing in columns that are not STRING
    refused: list[csv.InvalidRow] = field(default_factory=list)

    def skip(self, row: csv.InvalidRow) -> str:
        self.refused.append(row)
        return "skip"


@dataclass(frozen=True)
class Delimited:
    """How to read CSV. `names` are those of the header or of the caller; `given` are the types the caller fixed.

    See eau2.values.block.Lines. A value that its column cannot hold widens the column when `widen` and its type was not
    given; otherwise the record is bad, or with `null` the cell becomes missing.
    """

    names: tuple[str, ...]
    given: tuple[pa.DataType | None, ...]
    delimiter: str = ","
    widen: bool = True
    null: bool = False

    def infer(self, head: bytes) -> pa.Schema:
        types: list[pa.DataType | None] = list(self.given)
        head = head[: unclosed(head, self.delimiter)]
        for _ in self.names:
            attempt = _Attempt(list(types), words=True)
            try:
                table = self._read(head, attempt)
            except pa.ArrowInvalid as error:  # a given type, or text that is not UTF-8: later said to be bad
                refused = _refused_column(error)
                if refused is None:
                    break
                types[refused] = pa.binary()
                continue
            found = [
                None
                if type_ == pa.binary() or self._long_number(head, index, table.column(index)) is not None
                else type_
                for index, type_ in enumerate(table.schema.types)
            ]
            return self._schema([g or f or pa.string() for g, f in zip(self.given, found, strict=True)])
        return self._schema([given or pa.string() for given in self.given])

    def parse(self, data: bytes | pa.Buffer, schema: pa.Schema) -> Block:
        data = bytes(data)
        end = unclosed(data, self.delimiter)
        if end < len(data):
            return _with_unclosed(self.parse(data[:end], schema), data[end:])
        types: list[pa.DataType | None] = list(schema.types)
        attempt = _Attempt(types)
        widened: list[Widening] = []
        while True:
            attempt.refused.clear()
            try:
                table = self._read(data, attempt)
                if not self._widen_for_long_numbers(data, attempt, table, schema, widened):
                    break
            except pa.ArrowInvalid as error:
                column = _refused_column(error)
                if column is None:
                    return self._unreadable(data, schema, str(error))
                if not attempt.words and types[column] != pa.string():
                    attempt.words = True
                    continue
                self._ease(data, attempt, column, schema, widened)
        return self._account(data, schema, attempt, table, widened)

    # -- one attempt --------------------------------------------------------------------------------------------------

    def _read(self, data: bytes, attempt: _Attempt) -> pa.Table:
        if not data.strip(b"\r\n"):
            return self._schema([type_ or pa.null() for type_ in attempt.types]).empty_table()
        columns = range(len(self.names)) if attempt.only is None else attempt.only
        if not attempt.words:
            return self._read_columns(data, attempt, list(columns), [""])
        texts = [index for index in columns if attempt.types[index] in _TEXTS]
        others = [index for index in columns if attempt.types[index] not in _TEXTS]
        if not texts or not others:
            return self._read_columns(data, attempt, list(columns), [""] if texts else _WORDS)
        left = self._read_columns(data, attempt, texts, [""])
        attempt.refused.clear()
        right = self._read_columns(data, attempt, others, _WORDS)
        parts = {**dict(zip(texts, left.columns, strict=True)), **dict(zip(others, right.columns, strict=True))}
        return pa.table([parts[index] for index in columns], names=[str(index) for index in columns])

    def _read_columns(self, data: bytes, attempt: _Attempt, columns: list[int], missing: list[str]) -> pa.Table:
        types = {str(index): attempt.types[index] for index in columns if attempt.types[index] is not None}
        return csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=[str(i) for i in range(len(self.names))]
            ),
            parse_options=csv.ParseOptions(
                delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=attempt.skip
            ),
            convert_options=csv.ConvertOptions(
                column_types=types,
                include_columns=[str(index) for index in columns],
                null_values=missing,
                strings_can_be_null=missing == [""],
                quoted_strings_can_be_null=False,
            ),
        )

    def _ease(self, data: bytes, attempt: _Attempt, column: int, schema: pa.Schema, widened: list[Widening]) -> None:
        """Change how `column`, which did not convert, is read the next time."""
        old = attempt.types[column]
        if old is None or old == pa.string() or not self.widen or self.given[column] is not None:
            attempt.types[column] = pa.binary()
            return
        eased = _Attempt([None] * len(self.names), only=[column], words=True)
        try:
            table = self._read(data, eased)
            long = self._long_number(data, column, table.column(0)) is not None
            seen = pa.string() if long else table.schema.types[0]
        except pa.ArrowInvalid:
            seen = pa.string()
        new = wider(old, seen)
        attempt.types[column] = new
        line = self._first_misfit(data, column, old)
        widened.append(Widening(schema.names[column], old, new, line))

    def _widen_for_long_numbers(
        self, data: bytes, attempt: _Attempt, table: pa.Table, schema: pa.Schema, widened: list[Widening]
    ) -> bool:
        """Let FLOAT columns that lose digits be read as STRING the next time; return whether there are any."""
        found = False
        for index, column in enumerate(table.columns if self.widen else ()):
            row = None if self.given[index] is not None else self._long_number(data, index, column)
            if row is not None:
                attempt.types[index], found = pa.string(), True
                line = _Positions(data, self.delimiter, attempt.refused).line_of_row(row)
                widened.append(Widening(schema.names[index], pa.float64(), pa.string(), line))
        return found

    def _long_number(self, data: bytes, index: int, column: pa.ChunkedArray) -> int | None:
        """Return the first row of FLOAT `column` that was written as a whole number beyond 64 bits."""
        if column.type != pa.float64():
            return None
        bounds = pc.min_max(column).as_py()
        if all(bound is None or abs(bound) < _EXACT_BELOW for bound in bounds.values()):
            return None
        texts = self._read(data, _Attempt([pa.binary()] * len(self.names), only=[index])).column(0)
        large = pc.indices_nonzero(pc.greater_equal(pc.abs(column), _EXACT_BELOW)).to_pylist()
        return next((row for row in large if _WHOLE_NUMBER.fullmatch(texts[row].as_py())), None)

    def _first_misfit(self, data: bytes, column: int, type_: pa.DataType) -> int:
        attempt = _Attempt([pa.binary()] * len(self.names), only=[column])
        texts = self._read(data, attempt).column(0).combine_chunks()
        _, fits = convert_texts(texts, type_)
        row = next((index for index, fit in enumerate(fits.to_pylist()) if not fit), 0)
        return _Positions(data, self.delimiter, attempt.refused).line_of_row(row)

    # -- the account --------------------------------------------------------------------------------------------------

    def _account(
        self, data: bytes, schema: pa.Schema, attempt: _Attempt, table: pa.Table, widened: list[Widening]
    ) -> Block:
        block = Block(self._schema([type_ or pa.null() for type_ in attempt.types]), widened=widened)
        if any(given == pa.binary() for given in attempt.types):
            block.schema = self._schema(
                [old if new == pa.binary() else new for old, new in zip(schema.types, attempt.types, strict=True)]
            )
        positions = _Positions(data, self.delimiter, attempt.refused)
        columns, keep = self._examined(table, block, positions)
        for row in attempt.refused:
            reason = f"{row.actual_columns:,} values, but {row.expected_columns:,} columns"
            column = min(row.actual_columns, row.expected_columns) + 1
            line, raw = positions.at(row.number - 1)
            block.rejects.append(Reject(line, column, reason, raw or row.text.encode()))
        block.rejects.sort(key=lambda reject: (reject.line, reject.column))
        batch = pa.RecordBatch.from_arrays(columns, schema=block.schema)
        batch = batch if keep is None else batch.filter(keep)
        block.rows = batch.num_rows
        block.blank = positions.blank(table.num_rows + len(attempt.refused))
        block.lines = table.num_rows + len(attempt.refused) + block.blank
        block.span = positions.span
        block.batches = [batch]
        return block

    def _examined(self, table: pa.Table, block: Block, positions: _Positions) -> tuple[list[pa.Array], pa.Array | None]:
        """Convert the columns that were read as bytes. Return all columns, and which rows stay (None: all of them)."""
        columns: list[pa.Array] = []
        keep: pa.Array | None = None
        for index, column in enumerate(table.columns):
            array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            wanted = block.schema.types[index]
            if array.type != wanted:
                texts = array
                array, fits = convert_texts(texts, wanted)
                for row in pc.indices_nonzero(pc.invert(fits)).to_pylist():
                    line, raw = positions.at(positions.record_of_row(row))
                    block.rejects.append(
                        Reject(line, index + 1, _reason(texts[row].as_py(), wanted), raw, kept=self.null)
                    )
                if not self.null:
                    keep = fits if keep is None else pc.and_(keep, fits)
            columns.append(array)
        return columns, keep

    def _unreadable(self, data: bytes, schema: pa.Schema, reason: str) -> Block:
        rejects = [Reject(number, 0, reason, raw) for number, raw in enumerate(data.splitlines(), 1)]
        return Block(schema, lines=len(rejects), span=len(rejects), rejects=rejects)

    def _schema(self, types: list[pa.DataType]) -> pa.Schema:
        return pa.schema(list(zip(self.names, types, strict=True)))


def _with_unclosed(block: Block, raw: bytes) -> Block:
    """Return `block` with the record `raw` after it, whose quote is not closed."""
    block.rejects.append(Reject(block.span + 1, 0, "unclosed quote", raw.removesuffix(b"\n")))
    block.lines += 1
    block.span += line_count(raw)
    return block


class _Positions:
    """Where the records of a block are. Looks only when asked, because most blocks are rows and nothing else."""

    def __init__(self, data: bytes, delimiter: str, refused: list[csv.InvalidRow]) -> None:
        self._data, self._delimiter = data, delimiter
        self._refused = {row.number - 1 for row in refused}
        self._records: list[tuple[int, bytes]] | None = None
        self.span = line_count(data)

    def blank(self, records: int) -> int:
        """Return how many lines are blank, of a block with that many records."""
        if self.span == records or b'"' not in self._data:
            return self.span - records
        return self.span - sum(line_ends(raw) + 1 for _, raw in self._found())

    def record_of_row(self, row: int) -> int:
        """Return the index of a row among all records, refused ones too."""
        for refused in sorted(self._refused):
            row += refused <= row
        return row

    def line_of_row(self, row: int) -> int:
        return self.at(self.record_of_row(row))[0]

    def at(self, record: int) -> tuple[int, bytes]:
        """Return the line on which a record starts, from 1, and its text."""
        records = self._found()
        return records[record] if record < len(records) else (record + 1, b"")

    def _found(self) -> list[tuple[int, bytes]]:
        if self._records is None:
            self._records = split_records(self._data, self._delimiter)
        return self._records


def wider(old: pa.DataType, seen: pa.DataType) -> pa.DataType:
    """Return the type that holds both; STRING when there is no narrower one.

    >>> wider(pa.int64(), pa.float64()), wider(pa.int64(), pa.bool_())
    (DataType(double), DataType(string))
    """
    if old == seen or pa.types.is_null(seen):
        return pa.string()  # it did not fit, whatever a second look says
    if pa.types.is_null(old):
        return seen
    if {old, seen} == {pa.int64(), pa.float64()} and old == pa.int64():
        return pa.float64()
    dated = pa.types.is_date(old) or pa.types.is_timestamp(old)
    return seen if dated and pa.types.is_timestamp(seen) and seen.tz is None else pa.string()


def convert_texts(texts: pa.Array, type_: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return `texts` (binary) as `type_`, missing where they do not convert, and which of them do (or are missing)."""
    fits = _fitting(pc.unique(texts.drop_null()).to_pylist(), type_)
    good = pc.is_in(texts, value_set=pa.array(fits, texts.type))
    kept = pc.if_else(good, texts, pa.scalar(None, texts.type))
    converted = _convert(kept.to_pylist(), type_) if len(kept) else pa.array([], type_)
    assert converted is not None
    return converted, pc.or_(good, pc.is_null(texts))


def _fitting(texts: list[bytes | None], type_: pa.DataType) -> list[bytes | None]:
    """Return those that convert, halved as long as some do not: a look takes 0.2 ms, and misfits are few, or all."""
    if len(texts) <= _TOGETHER_MIN:
        return [text for text in texts if _convert([text], type_) is not None]
    if _convert(texts, type_) is not None:
        return texts
    middle = len(texts) // 2
    return _fitting(texts[:middle], type_) + _fitting(texts[middle:], type_)


def _convert(texts: list[bytes | None], type_: pa.DataType) -> pa.Array | None:
    """Return the values of `texts` as Arrow's CSV reader has them, or None when one does not convert."""
    lines = [b"\n" if text is None else b'"' + text.replace(b'"', b'""') + b'"\n' for text in texts]
    data = b"".join(lines)
    words = [] if type_ == pa.string() else _WORDS
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=["0"]),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types={"0": type_},
                null_values=["", *words],
                strings_can_be_null=True,
                quoted_strings_can_be_null=type_ != pa.string(),
            ),
        )
    except _NEVER:
        return None
    return table.column(0).combine_chunks()


def is_readable(type_: pa.DataType) -> bool:
    """Whether text can be read as `type_`."""
    options = csv.ConvertOptions(column_types={"0": type_})
    try:
        csv.read_csv(pa.BufferReader(b"0\n"), convert_options=options)
    except pa.ArrowNotImplementedError:
        return False
    return True


def _refused_column(error: pa.ArrowInvalid) -> int | None:
    found = _REFUSED.search(str(error))
    return None if found is None else int(found.group(1))


def _reason(text: bytes, type_: pa.DataType) -> str:
    if type_ == pa.string():
        return "not valid UTF-8"
    shown = text[:40].decode(errors="replace")
    return f"'{shown}' is no {type_name(type_)}"
