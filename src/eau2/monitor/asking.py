"""What rules ask: SQL over the figures, in this process, also while the store itself does not answer.

Imported when a server has rules: the engine's library takes 0.3 s to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from datafusion import RuntimeEnvBuilder, SessionConfig, SessionContext, SQLOptions

from eau2.errors import QueryError
from eau2.monitor.readings import SCHEMA
from eau2.query.engine_errors import check_query, interruption, typed

if TYPE_CHECKING:
    from datafusion import DataFrame

ROWS_MAX = 1000  # of an answer: more alerts than anybody reads
_MEMORY_BYTES = 64 << 20
_NOTHING = pa.RecordBatch.from_pylist([], SCHEMA)
_ONLY_QUERIES = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)


class Found(NamedTuple):
    """A row of what a rule asks. Text and booleans say which alert it is; the first number is its value."""

    labels: tuple[tuple[str, str], ...]
    value: float | None


class Asking:
    """Tables `metrics`, the last figures, and `history`, all that are kept. For one thread."""

    def __init__(self) -> None:
        pool = RuntimeEnvBuilder().with_disk_manager_disabled().with_greedy_memory_pool(_MEMORY_BYTES)
        self._session = SessionContext(SessionConfig().with_target_partitions(1), pool)
        self.have(SCHEMA.empty_table(), SCHEMA.empty_table())

    def have(self, metrics: pa.Table, history: pa.Table) -> None:
        """Have queries ask these from now on."""
        for name, table in (("metrics", metrics), ("history", history)):
            self._session.deregister_table(name)
            self._session.register_record_batches(name, [table.to_batches() or [_NOTHING]])

    def check(self, query: str) -> None:
        """Raise what is wrong with `query`: UnknownTable, UnknownColumn, QueryError. It is planned, and not run."""
        self._planned(query)

    def rows(self, query: str) -> list[Found]:
        """Return the first ROWS_MAX rows of `query`. Raises as `check`, and what running it raises."""
        frame = self._planned(query).limit(ROWS_MAX)
        try:
            rows: list[dict[str, Any]] = frame.to_arrow_table().to_pylist()
        except BaseException as error:
            raise _said(error) from error
        return [_found(row) for row in rows]

    def _planned(self, query: str) -> DataFrame:
        check_query(query)
        try:
            return self._session.sql_with_options(query, _ONLY_QUERIES)
        except BaseException as error:
            raise _said(error) from error


def _said(error: BaseException) -> BaseException:
    """Return the error of eau2 that says what the engine's says; what is no Exception as it is."""
    if (stop := interruption(error)) is not None:
        return stop
    if not isinstance(error, Exception):
        return QueryError(str(error)) if type(error).__name__ == "PanicException" else error
    return typed(error, names=lambda: ["history", "metrics"])


def _found(row: dict[str, Any]) -> Found:
    labels = tuple((name, str(value)) for name, value in row.items() if isinstance(value, (str, bool)))
    numbers = [value for value in row.values() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return Found(labels, float(numbers[0]) if numbers else None)
