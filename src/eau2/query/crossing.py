"""What crosses between a caller and the nodes that are processes of their own, for a map: orders, tasks, and results.

Results and errors cross as bytes that the node does not look into: it may not have the modules that they need.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from eau2.query.modules import Modules
    from eau2.query.shipping import Rows


class MapOrder(NamedTuple):
    """What the job of a map is begun with."""

    task: bytes  # as `Task.pack` has it
    modules: Modules


class MapTask(NamedTuple):
    """Told to the job: run it on these rows."""

    number: int
    key: str
    chunk_id: str
    chunk_rows: int
    part: Rows


class MapOutcome(NamedTuple):
    """Told by the job. `found`: what `pack` made of the result ("done"), or of the error that was raised and its text
    ("raised"); nothing when the worker process "ended"; why the node cannot do it, an exception ("absent")."""

    number: int
    how: Literal["done", "raised", "ended", "absent"]
    found: Any


def pack(value: object) -> bytes:
    """Return `value` as bytes, of tables only their own rows: pickled by themselves they bring all that they are cut
    from. Raises whatever pickling raises."""
    import cloudpickle  # here: not needed until something is sent

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no annotations
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (pa.Table, pa.RecordBatch)):
                return (_table if isinstance(obj, pa.Table) else _batch), (_as_stream(obj),)
            return super().reducer_override(obj)

    sink = io.BytesIO()
    Pickler(sink).dump(value)
    return sink.getvalue()


def unpack(data: bytes) -> Any:
    import cloudpickle  # here: not needed until something is sent

    return cloudpickle.loads(data)


def pack_error(error: BaseException) -> bytes:
    """Return `error` as bytes; one that cannot be made again becomes a RuntimeError that says what it said."""
    return pack(error if can_cross(error) else RuntimeError(error_text(error)))


def can_cross(error: BaseException) -> bool:
    """Whether `error` can be made again from bytes: not with a lock in it, or a constructor that wants more than a
    message."""
    try:
        unpack(pack(error))
    except Exception:
        return False
    return True


def error_text(error: BaseException) -> str:
    """Return the kind of `error` and what it says, also when it cannot say anything."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as second:
        return f"{type(error).__name__}, whose text is a {type(second).__name__}"


def _as_stream(rows: pa.Table | pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return sink.getvalue()


def _table(stream: pa.Buffer) -> pa.Table:
    reader = pa.ipc.open_stream(stream)
    return pa.Table.from_batches(list(reader), reader.schema)


def _batch(stream: pa.Buffer) -> pa.RecordBatch:
    return pa.ipc.open_stream(stream).read_next_batch()
