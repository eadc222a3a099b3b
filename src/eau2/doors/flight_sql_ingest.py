"""Bulk ingestion by Flight SQL: what a client sends becomes a frame, or is appended to one."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eau2.doors.flight_errors import invalid, unsupported
from eau2.doors.flight_sql_catalog import CATALOG, SCHEMA
from eau2.errors import InvalidValue, KeyExists, KeyMissing, VersionConflict
from eau2.ingest.intake import cast_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.doors.flight_received import Received
    from eau2.store.store import Store

HELD_BYTES_MAX = 16 << 20  # of rows to append: so few are held, and tried again when the frame was changed meanwhile
TRIES_MAX = 20
_CREATE, _FAIL_IF_ABSENT = 1, 2  # of TableNotExistOption
_FAIL_IF_PRESENT, _APPEND, _REPLACE = 1, 2, 3  # of TableExistsOption


def ingest(store: Store, command: Any, received: Received) -> int:
    """Put what was received under the key that `command` names; return the number of rows. All of it or nothing.

    Memory is bounded by a batch, and by HELD_BYTES_MAX where rows are appended. To append writes the frame anew.
    """
    _check(command)
    key, options = command.table, command.table_definition_options
    choice = options.if_not_exist, options.if_exists
    if choice == (_CREATE, _FAIL_IF_PRESENT):
        store.create(key, iter(received), schema=received.schema)
    elif choice == (_CREATE, _REPLACE):
        store.put(key, iter(received), schema=received.schema)
    elif choice == (_FAIL_IF_ABSENT, _REPLACE):
        store.update(key, iter(received), schema=received.schema)
    elif choice in ((_CREATE, _APPEND), (_FAIL_IF_ABSENT, _APPEND)):
        _append(store, key, received, creates=choice[0] == _CREATE)
    else:
        raise invalid(f"{key!r}: what to do where it exists and where not is not said, or not possible together")
    return received.rows


def _check(command: Any) -> None:
    if command.HasField("transaction_id"):
        raise unsupported("there are no transactions: each ingestion is one by itself")
    if command.temporary:
        raise unsupported("there are no temporary tables")
    if not command.table:
        raise invalid("an ingestion names its table")
    if command.HasField("catalog") and command.catalog != CATALOG:
        raise invalid(f"there is no catalog {command.catalog!r}: names of tables have none")
    if command.HasField("schema") and command.schema not in ("", SCHEMA):
        raise invalid(f"there is no schema {command.schema!r}: all tables are in {SCHEMA!r}")


def _append(store: Store, key: str, received: Received, *, creates: bool) -> None:
    coming = iter(received)
    held = _first(coming, HELD_BYTES_MAX)
    last = next(coming, None)
    tries = TRIES_MAX if last is None else 1  # what is not held cannot be sent again
    rest = coming if last is None else itertools.chain([last], coming)
    while True:
        tries -= 1
        try:
            _append_once(store, key, received.schema, itertools.chain(held, rest), creates=creates)
            return
        except (VersionConflict, KeyExists, KeyMissing) as error:
            if isinstance(error, KeyMissing) and not creates:
                raise
            if not tries:
                raise VersionConflict(
                    f"{key!r} was changed while rows were appended to it: nothing was appended",
                    found=getattr(error, "found", 0),
                    hint="append again, in smaller parts, or from one client at a time",
                ) from None


def _append_once(
    store: Store, key: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, creates: bool
) -> None:
    try:
        version = store.version(key)  # before the frame is read: a later one is a conflict
        frame = store.frame(key)
    except KeyMissing:
        if not creates:
            raise
        store.create(key, batches, schema=schema)
        return
    _, more = cast_batches(*_in_order(key, frame.schema, schema, batches), frame.schema)
    # A schema that differs in its metadata is that of the frame, as what is appended does not change what it says.
    alike = (batch.replace_schema_metadata(frame.schema.metadata) for batch in more)
    store.update(key, itertools.chain(frame.batches(), alike), if_version=version, schema=frame.schema)


def _in_order(
    key: str, wanted: pa.Schema, found: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return `found` and `batches` with the columns in the order of `wanted`. InvalidValue where they are others."""
    if found.names == wanted.names:
        return found, batches
    if sorted(found.names) != sorted(wanted.names) or len(set(found.names)) < len(found.names):
        raise InvalidValue(f"{key!r} has the columns {wanted.names}, and what was sent {found.names}")
    ordered = pa.schema([found.field(name) for name in wanted.names])
    return ordered, (batch.select(wanted.names) for batch in batches)


def _first(batches: Iterator[pa.RecordBatch], size: int) -> list[pa.RecordBatch]:
    """Return the first of `batches`, of about `size` bytes together; the rest is left in it."""
    found: list[pa.RecordBatch] = []
    while size > 0 and (batch := next(batches, None)) is not None:
        found.append(batch)
        size -= batch.nbytes
    return found
