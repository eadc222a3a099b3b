"""What a served store and its client say to each other over Arrow Flight. Pure.

Actions (`eau2.` and a verb) carry messages: a header in JSON, a line end, bytes. Rows and chunks travel as Flight
streams of one column, `piece`: bytes of a chunk's file, or whole Arrow IPC streams of some rows each. Arrow's own
encoding of rows in Flight would lose dictionaries that differ between batches.
"""

from __future__ import annotations

import json
import struct
from array import array
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eau2 import errors
from eau2.errors import Eau2Error, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PROTOCOL = 2
PIECE_BYTES = 1 << 20  # of a chunk's file: small enough for the two sides to work at the same time
ROWS_BYTES = 4 << 20  # of rows, before they are encoded
FILLED_BYTES_MAX = 64  # to which Arrow may fill up a buffer
REPLY_BYTES = 8 << 20  # of values in one message, as far as they are not larger each
WRITE_BYTES_MAX = 512 << 20  # of the values in one call
PIECES = pa.schema([pa.field("piece", pa.binary(), nullable=False)])
LEASE_SECONDS = 60.0  # what is held for a client goes when it is not heard of for so long

Header = dict[str, Any]


class SessionGone(Eau2Error, ConnectionError):
    """The server does not know the session: it was started again, or did not hear of the client for too long."""


def message(header: Header, payload: bytes | pa.Buffer = b"") -> bytes:
    """Return `header` and `payload` as one."""
    return b"%b\n%b" % (json.dumps(header, separators=(",", ":")).encode(), payload)


def parsed(data: bytes | pa.Buffer) -> tuple[Header, memoryview]:
    """Return the header and the payload of a message. InvalidValue when it is none."""
    view = memoryview(data)
    line = bytes(view[: 1 << 12])
    end = line.find(b"\n")
    if end < 0:
        line = bytes(view)
        end = line.find(b"\n")
    try:
        header = json.loads(line[:end] if end >= 0 else b"")
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InvalidValue("no message: a JSON object and a line end come first")
    return header, view[end + 1 :]


# -- errors ------------------------------------------------------------------------------------------------------------


def described(error: Eau2Error) -> Header:
    """Return `error` so that `raised` makes it again."""
    str(error)  # which looks up the hint of a missing key
    kind = type(error).__name__ if type(error).__name__ in _kinds() else "Eau2Error"
    more = {name: value for name, value in vars(error).items() if isinstance(value, (int, str)) and name[0] != "_"}
    return {"error": kind, **more}


def made_again(found: Header) -> Eau2Error:
    """Return the error that was `described` as `found`; a plain one for what is not known here."""
    kind = _kinds().get(str(found.get("error")), Eau2Error)
    error = kind.__new__(kind)
    Eau2Error.__init__(error, str(found.get("message", "")), hint=str(found.get("hint", "")))
    vars(error).update({name: value for name, value in found.items() if name not in ("error", "message", "hint")})
    if isinstance(error, errors.KeyMissing):
        error._near = None
    return error


def _kinds() -> dict[str, type[Eau2Error]]:
    known = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Eau2Error)]
    return {kind.__name__: kind for kind in [*known, SessionGone]}


# -- streams -----------------------------------------------------------------------------------------------------------


def piece(data: pa.Buffer) -> pa.RecordBatch:
    """Return `data`, of less than 2 GiB, as a batch of PIECES. Nothing is copied."""
    ends = pa.py_buffer(array("i", (0, data.size)))
    return pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.binary(), 1, [None, ends, data])], schema=PIECES)


def content(batch: pa.RecordBatch) -> pa.Buffer:
    """Return the bytes in a batch of PIECES. Nothing is copied, as it would be by way of a scalar. InvalidValue when it
    is none."""
    if batch.num_rows != 1 or not batch.schema.equals(PIECES):
        raise InvalidValue("no piece: one row of one column `piece` is")
    column = batch.column(0)
    _, ends, data = column.buffers()
    if column.null_count or ends is None:
        raise InvalidValue("a piece that is missing")
    if ends.size < 4 * (column.offset + 2):
        raise InvalidValue("a piece without its ends")
    begin, end = struct.unpack_from("=2i", ends, 4 * column.offset)
    size = 0 if data is None else data.size
    if not 0 <= begin <= end <= size:
        raise InvalidValue("a piece that is longer than what came")
    if size - (end - begin) > FILLED_BYTES_MAX:  # whoever keeps the piece would keep all of it
        raise InvalidValue("a piece that is shorter than what came")
    return pa.py_buffer(b"") if data is None else data.slice(begin, end - begin)


def cut(data: pa.Buffer) -> Iterator[pa.RecordBatch]:
    """Yield `data` as batches of PIECES."""
    for start in range(0, data.size, PIECE_BYTES):
        yield piece(data.slice(start, min(PIECE_BYTES, data.size - start)))


def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield `batches` as batches of PIECES, of about ROWS_BYTES each. One copy."""
    for batch in batches:
        step = max(1, ROWS_BYTES * batch.num_rows // max(1, batch.nbytes))
        for start in range(0, max(1, batch.num_rows), step):
            part = batch if step >= batch.num_rows else batch.slice(start, step)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_batch(part)
            yield piece(sink.getvalue())


def schema_in(data: bytes | memoryview) -> pa.Schema:
    """Return the serialized schema that `data` is. InvalidValue when it is none."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowException, OSError) as error:
        raise InvalidValue(f"no schema: {error}") from None


def rows_of(data: pa.Buffer) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a piece: views into `data`, and not looked through. What Arrow raises when it has none."""
    with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
        yield from reader
