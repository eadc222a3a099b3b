"""What holds for any messages that come as an upload by columns."""

from __future__ import annotations

from base64 import b64encode
from types import SimpleNamespace

import pyarrow as pa

from eau2.doors.flight_uploads import upload
from eau2.errors import InvalidValue
from eau2.served import wire
from eau2.served.uploads import MORE, ROWS, WHOLE
from eau2.values.arriving import Columns, widths

SCHEMAS = (
    pa.schema({"a": pa.int8()}),
    pa.schema({"a": pa.int64(), "b": pa.uint16()}),
    pa.schema({"a": pa.float32(), "b": pa.int8(), "c": pa.float64()}),
)
MARKS = (b"", MORE, ROWS, WHOLE, b'{"rows": 1}', b'{"rows": 2}', b'{"rows": 3, "more": []}')
SEEDS = (
    bytes([0, 5, 2]) + b"ab" + bytes([0, 3]),
    bytes([1, 4, 8]) + b"abcdefgh" + bytes([0, 2]) + b"ab" + bytes([16, 3]),
    bytes([2, 32 | 1, 3, 32 | 2, 2, 16, 3]),
    bytes([0, 7, 12]) + b'{"rows": 9}\n' + bytes([0, 9]) + b"123456789",
)


def _messages(schema, data):
    """The messages that `data` chooses: a byte for what each is, one for how long."""
    while data:
        what, size, body, data = data[0], (data[1:2] or b"\0")[0], data[2:], b""
        if what & 32:  # rows
            zeros = [pa.array([0] * (size % 5)).cast(type_) for type_ in schema.types]
            yield next(iter(wire.rows([pa.RecordBatch.from_arrays(zeros, schema=schema)]))), MARKS[what % 7]
            data = body
            continue
        body, data = body[:size], body[size:]
        mark = body if what & 15 == 7 else MARKS[(what & 15) % 7]
        if what & 16:
            yield None, mark
        elif what & 64:
            yield pa.record_batch({"piece": pa.array([body, b""], pa.binary())}), mark
        else:
            yield wire.piece(pa.py_buffer(body)), mark


def check_uploads(data):
    schema = SCHEMAS[(data[:1] or b"\0")[0] % len(SCHEMAS)]
    coming, marks = _messages(schema, data[1:]), []

    def read_chunk():
        batch, mark = next(coming)
        marks.append(mark)
        return SimpleNamespace(data=batch, app_metadata=pa.py_buffer(mark) if mark else None)

    asked = {"schema": b64encode(schema.serialize()).decode()}
    found = upload(SimpleNamespace(schema=wire.PIECES, read_chunk=read_chunk), lambda: False, asked)
    try:
        for chunk in found:
            if isinstance(chunk, Columns):
                _check_columns(chunk, widths(schema))
            else:
                chunk.validate(full=True)
                assert chunk.schema.equals(schema)
    except InvalidValue:
        return
    assert WHOLE in marks


def _check_columns(columns, sizes):
    assert columns.rows > 0
    for width in sizes:
        left = columns.rows * width
        while left:
            part = next(columns.parts)
            assert 0 < part.size <= left
            assert part.size % width == 0
            left -= part.size
    assert next(columns.parts, None) is None
