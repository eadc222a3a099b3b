"""What our own client sends to be stored: see `served/uploads.py`. Looked through, and only taken when all has come."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eau2.doors.flight_received import Received
from eau2.errors import InvalidValue
from eau2.ingest.writer import SMALL_BATCHES_MAX, tolerated
from eau2.served import wire
from eau2.served.uploads import MORE, ROWS, WHOLE
from eau2.values.arriving import Columns, gathered, widths
from eau2.values.chunk import CHUNK_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyarrow import flight

SMALL_BYTES = 64 << 10  # parts of columns that are smaller are put together


def upload(
    reader: flight.MetadataRecordBatchReader, gave_up: Callable[[], bool], asked: dict[str, Any]
) -> Received | Uploaded:
    """Return what comes, as `asked` announces it. InvalidValue."""
    schema = asked.get("schema")
    if schema is None:
        return Received(reader, gave_up, mark=WHOLE)
    try:
        found = wire.schema_in(b64decode(schema, validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise InvalidValue("an upload whose schema is none") from None
    of_values = widths(found)
    if of_values is None:
        raise InvalidValue("only numbers and moments are sent by columns")
    return Uploaded(reader, gave_up, found, of_values)


class Uploaded:
    """Chunks that come by columns, checked as they come."""

    def __init__(
        self,
        reader: flight.MetadataRecordBatchReader,
        gave_up: Callable[[], bool],
        schema: pa.Schema,
        of_values: list[int],
    ) -> None:
        self.schema = schema
        self._reader, self._gave_up, self._widths = reader, gave_up, of_values
        self._is_whole = False

    def __iter__(self) -> Iterator[Columns | pa.Table]:
        """Yield the rows of each chunk. Columns are to be taken whole before the next."""
        while (found := self._next()) is not None:
            said, piece = found
            if said in (ROWS, MORE):
                yield self._table(said, piece)
            else:
                rows = _rows(said, sum(self._widths))
                yield Columns(rows, self._parts(rows, piece))
        if not self._is_whole or self._gave_up():
            raise InvalidValue("the client gave up halfway: nothing was changed")

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of each chunk, in memory."""
        for rows in self:
            yield gathered(self.schema, rows) if isinstance(rows, Columns) else rows

    def _next(self) -> tuple[bytes, pa.Buffer] | None:
        """Return the next piece with what was said of it; None at the end."""
        while True:
            try:
                found = self._reader.read_chunk()
            except StopIteration:
                return None
            except (pa.ArrowInvalid, OSError) as error:  # which whoever writes would take for one of the disk
                raise InvalidValue(f"what came cannot be read: {error}") from None
            said = b"" if found.app_metadata is None else found.app_metadata.to_pybytes()
            self._is_whole = self._is_whole or said == WHOLE
            if found.data is not None:
                return said, wire.content(found.data)

    def _more(self) -> tuple[bytes, pa.Buffer]:
        found = self._next()
        if found is None:
            raise InvalidValue("the client gave up halfway: nothing was changed")
        return found

    def _parts(self, rows: int, piece: pa.Buffer) -> Iterator[pa.Buffer]:
        """Yield the values of each column, of which `piece` is the first."""
        following: pa.Buffer | None = piece
        for width in self._widths:
            left, small = rows * width, bytearray()
            while left:
                part = following if following is not None else self._amid()
                following = None
                if not 0 < part.size <= left or part.size % width:
                    raise InvalidValue(f"{part.size} bytes of a column that has {left} left, of {width} each")
                left -= part.size
                if small or (left and part.size < SMALL_BYTES):  # by itself each would take a kilobyte
                    small += part
                    if left and len(small) < SMALL_BYTES:
                        continue
                    part, small = pa.py_buffer(bytes(small)), bytearray()
                yield part

    def _amid(self) -> pa.Buffer:
        said, piece = self._more()
        if said:
            raise InvalidValue("a chunk that begins amid another")
        return piece

    def _table(self, said: bytes, piece: pa.Buffer) -> pa.Table:
        """Return the rows of one chunk that come as streams, of which `piece` is the first."""
        batches: list[pa.RecordBatch] = []
        size = 0
        while True:
            for batch in self._batches(piece):
                batches.append(batch)
                size += batch.nbytes
                if size > 2 * CHUNK_BYTES_MAX and len(batches) > 1:  # compressed, it came as next to nothing
                    raise InvalidValue(f"a piece with over {size} bytes of rows")
            if said == ROWS or size > tolerated(CHUNK_BYTES_MAX) or len(batches) >= SMALL_BATCHES_MAX:
                return pa.Table.from_batches(batches, self.schema)
            said, piece = self._more()
            if said not in (ROWS, MORE):
                raise InvalidValue("a chunk that begins amid another")

    def _batches(self, piece: pa.Buffer) -> Iterator[pa.RecordBatch]:
        try:
            for batch in wire.rows_of(piece):
                if not batch.schema.equals(self.schema):
                    raise InvalidValue(f"a batch has other columns than were announced: {batch.schema.names}")
                batch.validate(full=True)  # a stranger's lengths: to read beyond a buffer ends the process
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise InvalidValue(f"no rows: {error}") from None


def _rows(said: bytes, width: int) -> int:
    """Return how many rows a chunk has, of `width` bytes each, of which that was said. InvalidValue."""
    try:
        found = json.loads(said)["rows"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidValue("a chunk that does not begin with its rows") from None
    if type(found) is not int or found < 1 or (found > 1 and found * width > tolerated(CHUNK_BYTES_MAX)):
        raise InvalidValue(f"a chunk of {found!r:.40} rows of {width} bytes each")
    return found
