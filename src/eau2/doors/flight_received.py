"""Rows that a client of Flight sends: looked through, counted, and only taken when all of them have come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.errors import InvalidValue
from eau2.ingest.writer import SMALL_BATCHES_MAX, tolerated
from eau2.served.uploads import MORE
from eau2.values.chunk import CHUNK_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyarrow import flight

_GONE_SECONDS = 0.005  # after the end of a stream gRPC may find that it was broken off


class Received:
    """The batches that a client sends, checked and counted as they come.

    A connection that breaks off looks to the reader as if the client had sent all: `gave_up` tells, where it matters.
    With `mark`, that must have come with a message.
    """

    def __init__(
        self, reader: flight.MetadataRecordBatchReader, gave_up: Callable[[], bool] | None, *, mark: bytes = b""
    ) -> None:
        self.schema: pa.Schema = reader.schema
        self.rows = 0
        self._reader, self._gave_up, self._mark = reader, gave_up, mark
        self._marked = not mark

    def __iter__(self) -> Iterator[pa.RecordBatch | pa.Table]:
        """Yield what comes; of our own client, messages that belong together as a table of as many batches."""
        parts: list[pa.RecordBatch] = []
        size = 0
        while True:
            try:
                chunk = self._reader.read_chunk()
            except StopIteration:
                self._marked = self._marked and not parts
                self.check_whole()
                return
            said = chunk.app_metadata.to_pybytes() if self._mark and chunk.app_metadata is not None else b""
            self._marked = self._marked or said == self._mark
            if chunk.data is not None:
                parts.append(self._checked(chunk.data))
                size += chunk.data.nbytes
                if said != MORE or size > tolerated(CHUNK_BYTES_MAX) or len(parts) >= SMALL_BATCHES_MAX:
                    yield parts[0] if len(parts) == 1 else pa.Table.from_batches(parts)
                    parts, size = [], 0

    def check_whole(self) -> None:
        """Raise InvalidValue unless all has come."""
        if self._gave_up is not None and not self._mark:
            time.sleep(_GONE_SECONDS)
        if not self._marked or (self._gave_up is not None and self._gave_up()):
            raise InvalidValue("the client gave up halfway: nothing was changed")

    def _checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not batch.schema.equals(self.schema):
            raise InvalidValue(f"a batch has other columns than those before: {batch.schema.names}")
        # A stranger's lengths and offsets: to read beyond a buffer ends the process.
        batch.validate(full=True)
        self.rows += batch.num_rows
        return batch
