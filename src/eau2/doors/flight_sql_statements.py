"""Statements that clients of Flight SQL prepared: their queries, and the rows of parameters that were bound to them."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import flight

from eau2.doors.flight_errors import invalid
from eau2.errors import QueryError, UnknownColumn, UnknownTable
from eau2.query.placeholders import placeholders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from eau2.frame.frame import Frame
    from eau2.store.store import Store

STATEMENTS_MAX = 1_000
STATEMENTS_BYTES_MAX = 64 << 20  # of queries and parameters, of all statements together
IDLE_SECONDS = 600.0


@dataclass(slots=True)
class Statement:
    """A query that was prepared, and the rows of parameters it is run with, once for each."""

    query: str
    names: tuple[str, ...]
    numbered: bool
    used: float
    rows: pa.Table | None = field(default=None)

    @property
    def size(self) -> int:
        return len(self.query) + (0 if self.rows is None else self.rows.nbytes)

    def frames(self, store: Store) -> Iterator[Frame]:
        """Yield the answer for each row of the parameters, the first where there are no parameters."""
        self.check_bound()
        if self.rows is None:
            yield store.sql(self.query)
            return
        for batch in self.rows.to_batches():
            for row in range(batch.num_rows):
                yield store.sql(self.query, parameters=self._named([column[row] for column in batch.columns]))

    def check_bound(self) -> None:
        """Raise ArrowInvalid where parameters have no values."""
        if self.names and self.rows is None:
            raise invalid(f"the query has {len(self.names)} parameters, and no values were bound")

    def schema(self, store: Store) -> pa.Schema:
        """Return the columns of the answer, by the first row of the parameters, or by nulls."""
        rows = self.rows
        if rows is not None and rows.num_rows:
            return next(self.frames(store)).schema
        if rows is not None:
            nulls = [pa.scalar(None, column.type) for column in rows.columns]
        else:
            nulls = [pa.scalar(None)] * len(self.names)
        return store.sql(self.query, parameters=self._named(nulls) if self.names else None).schema

    def parameter_schema(self) -> pa.Schema:
        """Return the names of the parameters. Of type null: the engine takes values of any type that fits."""
        return pa.schema([pa.field(f"${name}", pa.null()) for name in self.names])

    def _named(self, values: Sequence[pa.Scalar]) -> Sequence[pa.Scalar] | Mapping[str, pa.Scalar]:
        if self.numbered:
            return values
        columns = self.names if self.rows is None else self.rows.column_names
        return {name.removeprefix("$"): value for name, value in zip(columns, values, strict=True)}


class Statements:
    """The statements that clients hold. Thread-safe. One that is not used for IDLE_SECONDS is let go."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards what is below
        self._held: dict[bytes, Statement] = {}
        self._size = 0  # of all that are held

    def __len__(self) -> int:
        return len(self._held)

    def make(self, query: str) -> tuple[bytes, Statement]:
        """Hold `query`; return its handle too. FlightUnavailableError when there are too many."""
        text, names = found = placeholders(query)
        statement = Statement(text, names, found.numbered, self._clock())
        with self._lock:
            if len(self._held) >= STATEMENTS_MAX:
                self._drop_idle(self._clock())
            if len(self._held) >= STATEMENTS_MAX:
                raise flight.FlightUnavailableError(f"{STATEMENTS_MAX:,} prepared statements are held: close some")
            self._take(statement.size)
            handle = secrets.token_bytes(16)  # not to be guessed: it gives the parameters away
            self._held[handle] = statement
        return handle, statement

    def get(self, handle: bytes) -> Statement:
        """Return the statement of `handle`. ArrowInvalid where there is none."""
        with self._lock:
            statement = self._held.get(handle)
            if statement is not None:
                statement.used = self._clock()
                return statement
        raise invalid(f"no such prepared statement: it was closed, or not used for {IDLE_SECONDS:g} seconds")

    def bind(self, handle: bytes, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Bind rows of parameters in place of those before. ArrowInvalid where they are not those of the query."""
        statement = self.get(handle)
        names = [name.removeprefix("$") for name in schema.names]
        if len(names) != len(statement.names) or not (statement.numbered or set(names) == set(statement.names)):
            wanted = ", ".join(f"${name}" for name in statement.names[:10]) or "none"
            raise invalid(f"the query has the parameters {wanted}, and {len(names)} columns were bound")
        found: list[pa.RecordBatch] = []
        size = 0
        for batch in batches:
            found.append(batch)
            size += batch.nbytes
            if size > STATEMENTS_BYTES_MAX:
                break
        with self._lock:
            if self._held.get(handle) is statement:  # else it was closed meanwhile
                before = statement.size
                self._take(len(statement.query) + size - before)
                # A new one: an answer that is being read goes on with the rows that it had.
                rows = pa.Table.from_batches(found, schema)
                self._held[handle] = Statement(
                    statement.query, statement.names, statement.numbered, self._clock(), rows
                )

    def drop(self, handle: bytes) -> None:
        """Let the statement of `handle` go, if there is one."""
        with self._lock:
            self._drop(handle)

    def drop_idle(self, now: float) -> None:
        with self._lock:
            self._drop_idle(now)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self._size = 0

    # -- private, with the lock ---------------------------------------------------------------------------------------

    def _take(self, size: int) -> None:
        if self._size + size > STATEMENTS_BYTES_MAX:
            raise flight.FlightUnavailableError(
                f"prepared statements and parameters may have {STATEMENTS_BYTES_MAX >> 20} MiB together: close some"
            )
        self._size += size

    def _drop(self, handle: bytes) -> None:
        statement = self._held.pop(handle, None)
        if statement is not None:
            self._size -= statement.size

    def _drop_idle(self, now: float) -> None:
        for handle in [key for key, held in self._held.items() if now - held.used >= IDLE_SECONDS]:
            self._drop(handle)


def schema_if_known(statement: Statement, store: Store) -> pa.Schema | None:
    """Return the columns of the answer; None where that depends on the parameters. UnknownTable, QueryError."""
    try:
        return statement.schema(store)
    except (UnknownTable, UnknownColumn):
        raise
    except QueryError:
        if not statement.names:
            raise
        return None
