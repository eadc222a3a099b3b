"""Rows to partitions, by the engine's own hash: the same in every process of one version of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datafusion import SessionConfig, SessionContext

from eau2.distributed.substrait import empty_batch
from eau2.query.sessions import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def can_hash(type_: pa.DataType) -> bool:
    """Whether the engine hashes values of `type_` so that equal ones have one hash."""
    types = pa.types
    return not (types.is_nested(type_) or types.is_null(type_) or types.is_run_end_encoded(type_))


class Splitter:
    """Splits tables by the hash of some of their columns. Not thread-safe."""

    def __init__(self, keys: Sequence[int], partitions: int) -> None:
        self._keys = keys
        self._partitions = partitions
        self._session = SessionContext(SessionConfig().with_target_partitions(partitions))

    def split(self, table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        """Yield each partition that has rows of `table`, with them. Columns have the names c0, c1, ..."""
        # With one partition to begin with, all rows of a group are in one place already, and the engine would not hash.
        self._session.register_record_batches("rows", [cut(table.to_batches()), [empty_batch(table.schema)]])
        try:
            # The engine hashes rows to partitions for a window; its plan is cut off there: above that it would sort.
            keys = ", ".join(f"c{key}" for key in self._keys)
            plan = self._session.sql(f"select *, count(*) over (partition by {keys}) from rows").execution_plan()
            hashed = _repartition(plan)
            assert hashed.partition_count == self._partitions
            for partition in range(self._partitions):
                batches = [batch.to_pyarrow() for batch in self._session.execute(hashed, partition)]
                if batches:
                    yield partition, pa.Table.from_batches(batches)
        finally:
            self._session.deregister_table("rows")


def _repartition(plan: Any) -> Any:
    while not plan.display().startswith("RepartitionExec: partitioning=Hash"):
        (plan,) = plan.children()
    return plan
