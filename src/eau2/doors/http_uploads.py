"""Bodies that are put under keys: bytes, Arrow streams as they come, and files that are loaded."""

from __future__ import annotations

import asyncio
import os
import tempfile
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
from starlette.requests import ClientDisconnect

from eau2.doors.http_requests import Refused
from eau2.errors import DiskFull, Eau2Error, InvalidValue, LoadError, ValueTooLarge, failed_call, is_disk_full
from eau2.ingest.reading import read
from eau2.store.store import VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

    from eau2.doors.http import Asking
    from eau2.doors.http_requests import Condition
    from eau2.store.store import Store

ARROW = "application/vnd.apache.arrow.stream"
LOADED = {
    "text/csv": "csv",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/vnd.apache.parquet": "parquet",
}
MESSAGE_BYTES_MAX = 256 << 20  # of an Arrow stream: a batch is in memory whole
_LOOK_SECONDS = 0.5  # between two looks whether the client is there


class Put(NamedTuple):
    """What came of a body."""

    version: int
    account: dict[str, Any] | None = None  # of what was loaded


async def put_body(asking: Asking, request: Request, key: str, condition: Condition) -> Put:
    """Put the body of `request` under `key`, as its Content-Type says. KeyExists, KeyMissing, VersionConflict."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(415, "UnsupportedMediaType", "bodies are taken as they are, not compressed")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == ARROW:
        return Put(await asking.take_in(_put_stream, asking, request.stream(), key, condition))
    if media_type in LOADED:
        with _unnamed() as file:
            await _keep(asking, request, file)
            asking.may_take_long()
            return await asking.work(_load, asking.store, key, file, LOADED[media_type], condition, request)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > VALUE_BYTES_MAX:
        raise _too_large(key)
    value = bytearray()
    async for part in request.stream():
        value += part
        if len(value) > VALUE_BYTES_MAX:
            raise _too_large(key)
    return Put(await asking.work(_put, asking.store, key, value, None, condition))


def _put(store: Store, key: str, value: object, schema: pa.Schema | None, condition: Condition) -> int:
    if condition.absent:
        return store.create(key, value, schema=schema)
    if condition.present:
        return store.update(key, value, if_version=condition.version, schema=schema)
    return store.put(key, value, schema=schema)


def _too_large(key: str) -> ValueTooLarge:
    return ValueTooLarge(
        f"{key!r}: bytes have at most {VALUE_BYTES_MAX:,}", hint=f"a frame may be larger: send Content-Type: {ARROW}"
    )


# -- Arrow streams ----------------------------------------------------------------------------------------------------


class _Body:
    """The body of a request as a file, for a thread: what is read is waited for."""

    closed = False

    def __init__(self, asking: Asking, parts: AsyncIterator[bytes]) -> None:
        self._asking, self._parts = asking, parts
        self._kept = bytearray()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MESSAGE_BYTES_MAX:
            raise ValueTooLarge(
                f"a message of the Arrow stream has {size:,} bytes, over {MESSAGE_BYTES_MAX:,}",
                hint="is it one? If so, send smaller batches",
            )
        while len(self._kept) < size and (part := self.next()) is not None:
            self._kept += part
        found = bytes(memoryview(self._kept)[:size])
        del self._kept[:size]
        return found

    def next(self) -> bytes | None:
        """Return what has come, None when that was all."""
        coming = asyncio.run_coroutine_threadsafe(_next(self._parts), self._asking.loop)
        while True:
            try:
                return coming.result(_LOOK_SECONDS)
            except NotYet:  # the loop may have ended without a word
                if self._asking.gone:
                    raise ClientDisconnect from None

    def close(self) -> None: ...


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    return await anext(parts, None)


def _put_stream(asking: Asking, parts: AsyncIterator[bytes], key: str, condition: Condition) -> int:
    body = _Body(asking, parts)
    try:
        reader = pa.ipc.open_stream(body)
    except (pa.ArrowException, OSError) as error:
        raise _no_stream(error) from None
    return _put(asking.store, key, _batches(reader, body), reader.schema, condition)


def _batches(reader: pa.RecordBatchReader, body: _Body) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a stream, each looked through: what a stranger says of its lengths may not be so."""
    while True:
        try:
            batch = reader.read_next_batch()
            batch.validate(full=True)
        except StopIteration:
            break
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, Eau2Error):
                raise
            raise _no_stream(error) from None
        yield batch
    while body.next() is not None:  # what follows its end is not read, but waited for: the request must be whole
        pass


def _no_stream(error: BaseException) -> InvalidValue:
    return InvalidValue(f"the body is no Arrow stream: {str(error).partition(chr(10))[0]:.300}")


# -- files that are loaded --------------------------------------------------------------------------------------------


def _unnamed() -> BinaryIO:
    return cast("BinaryIO", tempfile.TemporaryFile(prefix="eau2-http-", buffering=0))


async def _keep(asking: Asking, request: Request, file: BinaryIO) -> None:
    async for part in request.stream():
        await asking.work(_write, file, part)


def _write(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"{tempfile.gettempdir()} is full: nothing was changed", hint="free some space") from None
        raise failed_call(error, tempfile.gettempdir()) from None


def _load(store: Store, key: str, file: BinaryIO, format_: str, condition: Condition, request: Request) -> Put:
    """Put the rows in `file` under `key`: as Store.load, but on `condition`."""
    path = f"/proc/{os.getpid()}/fd/{file.fileno()}"  # it has no name: whatever happens to us, it is gone
    on_error: Any = request.query_params.get("on_error", "report")
    try:
        reading = read(path, format=format_, on_error=on_error, progress=False)
        version, report = reading.run(lambda schema, rows: _put(store, key, rows, schema, condition), key=key)
    except LoadError as error:
        raise LoadError(
            error.message.replace(path, "the body"), line=error.line, column=error.column, hint=error.hint
        ) from None
    return Put(version, report.to_dict())
