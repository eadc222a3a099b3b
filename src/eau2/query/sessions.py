"""The engine's sessions: how names become tables, and chunks become batches that all cores can work on.

Imported when the first query comes: the engine's library takes 0.3 s to load.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pyarrow as pa
from datafusion import RuntimeEnvBuilder, SessionConfig, SessionContext, SQLOptions
from datafusion.catalog import SchemaProvider, Table
from datafusion.substrait import Consumer, Serde

from eau2.errors import QueryError
from eau2.query.engine_errors import interruption
from eau2.query.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datafusion import DataFrame
    from datafusion.plan import LogicalPlan

    from eau2.query.placeholders import Values
    from eau2.query.source import Source

    Resolve = Callable[[str], Source | None]

ROWS_PER_BATCH = 65_536  # small enough that all cores work on one chunk; 32k to 128k measure the same
BATCH_BYTES = 8 << 20  # of wide rows, fewer
# Rows that operators hand on at once: more is faster than the engine's 8,192 until hashes and tables of groups no more
# fit a core's cache together, which filters and projections alone do without. Wide rows keep the engine's number.
ROWS_PER_STEP = 16_384
ROWS_PER_STEP_IN_ORDER = 32_768
KEY_DENSITY_MIN = 0.05  # of integer keys that a join looks up in an array: twice as fast, for at most 80 bytes a key
SORT_RESERVE_BYTES_MAX = 10 << 20  # the engine's default; a small pool would be used up by reserves alone
_NARROW = {"datafusion.execution.batch_size": str(ROWS_PER_STEP)}
_NARROW_IN_ORDER = {"datafusion.execution.batch_size": str(ROWS_PER_STEP_IN_ORDER)}
_IN_ORDER = {"datafusion.optimizer.enable_round_robin_repartition": "false"}
_MERGING = {"datafusion.optimizer.prefer_hash_join": "false"}
# Of keys that were hashed to partitions one has few of a range: arrays by key would take more memory than all else.
_ONE_PARTITION = {
    "datafusion.execution.target_partitions": "1",
    "datafusion.execution.perfect_hash_join_min_key_density": "0.5",
}
_AS_WRITTEN = {"datafusion.sql_parser.enable_ident_normalization": "false"}
_NO_TABLE = re.compile(r"table '.*' not found")
_NO_COLUMN = "No field named"


class _Scope(threading.local):
    """What names mean to the query that this thread plans: the engine asks in the planning thread."""

    resolve: Resolve | None = None
    made: Callable[[Source], Table | None] | None = None
    missing: Source | None = None  # its table has to be made first; not possible while the engine plans
    failure: BaseException | None = None  # raised by `resolve`: the engine would make text of it

    def to_be_made(self) -> Source | None:
        return self.missing


class _Catalog(SchemaProvider):  # type: ignore[misc]  # the engine is not typed here
    def __init__(self, scope: _Scope) -> None:
        self._scope = scope

    def table_names(self) -> set[str]:
        return set()

    def table_exist(self, name: str) -> bool:
        return self.table(name) is not None

    def table(self, name: str) -> Table | None:
        scope = self._scope
        if scope.resolve is None or scope.made is None:
            return None
        try:
            source = scope.resolve(name)
        except BaseException as error:
            scope.failure = error
            raise
        if source is None:
            return None
        table = scope.made(source)
        if table is None:
            scope.missing = source
            raise LookupError(name)
        return table


class Sessions:
    """The sessions of one engine, which share one memory pool, one spill folder and one catalog. Thread-safe."""

    def __init__(self, memory_bytes: int, spill_folder: str, threads: int) -> None:
        self._threads = threads
        self._scope = _Scope()
        self._catalog = _Catalog(self._scope)
        self._step_bytes_max = min(BATCH_BYTES, memory_bytes // (32 * threads))  # an operator holds several
        self._sort_reserve = max(64 << 10, min(SORT_RESERVE_BYTES_MAX, memory_bytes // (16 * threads)))
        # The builder keeps the pool: every session made with it takes from the same.
        self._runtime = RuntimeEnvBuilder().with_disk_manager_specified(spill_folder).with_fair_spill_pool(memory_bytes)
        self._lock = threading.Lock()  # guards everything below
        self._scratch = SessionContext()
        self._tables: WeakKeyDictionary[Source, Table] = WeakKeyDictionary()
        self._made: dict[frozenset[tuple[str, str]], SessionContext] = {}
        self.plain = self._session(_NARROW)

    def running(self, row_bytes: int, *, in_order: bool, alone: bool = False, few: bool = False) -> SessionContext:
        """The session to run over rows of that width; `in_order` leaves batches in the partition they come from.

        `alone`: in one partition, so that rows never wait for those of another one. `few`: of rows of which hardly one
        passes there is nothing to hand on at once, and the engine's comparisons are the faster in its own small steps:
        one row of 20 million is found in 0.8 of the time.
        """
        narrow = not few and row_bytes * ROWS_PER_STEP_IN_ORDER <= self._step_bytes_max
        if narrow and not in_order and not alone:
            return self.plain
        steps = (_NARROW_IN_ORDER if in_order else _NARROW) if narrow else {}
        settings = (steps, _IN_ORDER if in_order else {}, _ONE_PARTITION if alone else {})
        return self._other({name: value for each in settings for name, value in each.items()})

    def merging(self) -> SessionContext:
        """The session that joins by sorting, which spills."""
        return self._other(_MERGING)

    def planning(self, chosen: Mapping[Source, Sequence[int]]) -> _Planning:
        """Return what builds recipes; of the sources in `chosen` only those chunks are there."""
        return _Planning(self, chosen)

    def sql(self, query: str, resolve: Resolve, values: Values | None = None) -> Recipe:
        """Plan `query`, `values` being those of its parameters. What `resolve` raises is raised; the engine's own
        errors come as they are.

        Names without quotes are folded to lower case, as the engine does; where that finds nothing, the query is read
        again with names as they are written.
        """
        try:
            return self._sql(query, resolve, values or {}, as_written=False)
        except Exception as error:
            text = str(error)
            if query.islower() or not (_NO_TABLE.search(text) or _NO_COLUMN in text):
                raise
            try:
                return self._sql(query, resolve, values or {}, as_written=True)
            except Exception:
                raise error from None

    def scan(self, source: Source) -> Recipe:
        """The recipe that reads all of `source`."""
        planned = self.planning({}).table(source)
        name = table_name(source)
        text = f"select * from {quoted(name)}"
        return Recipe(lambda planning: planning.table(source), ((name, source),), planned, text=text)

    def received(self, plan: bytes, tables: Mapping[str, Source]) -> Recipe:
        """The recipe of a serialized Substrait plan, in which names mean what `tables` has."""
        read = dict(tables)
        planned = self.planning({}).received(plan, read)
        return Recipe(lambda planning: planning.received(plan, read), tuple(read.items()), planned)

    def plan(
        self,
        query: str,
        resolve: Resolve,
        made: Callable[[Source], Table | None],
        make: Callable[[Source], None],
        *,
        values: Values,
        as_written: bool,
    ) -> DataFrame:
        """Plan `query`, its parameters being `values`, over the tables that `made` knows; what it does not know yet is
        made by `make`."""
        session = self._other({**_NARROW, **_AS_WRITTEN}) if as_written else self.plain
        return self.built(
            lambda: session.sql_with_options(query, _only_queries(), param_values=values), resolve, made, make
        )

    def built(
        self,
        build: Callable[[], DataFrame],
        resolve: Resolve,
        made: Callable[[Source], Table | None],
        make: Callable[[Source], None],
    ) -> DataFrame:
        """Return what `build` makes, which asks the sessions for tables: as `plan`."""
        scope = self._scope
        outer = scope.resolve, scope.made
        scope.resolve, scope.made = resolve, made
        try:
            while True:
                scope.missing = scope.failure = None
                try:
                    return build()
                except Exception:
                    if scope.failure is not None:
                        raise scope.failure from None
                    missing = scope.to_be_made()
                    if missing is None:
                        raise
                make(missing)
        finally:
            scope.resolve, scope.made = outer
            scope.missing = scope.failure = None

    def made(self, source: Source) -> Table | None:
        """Return the engine's table of `source` if it was made."""
        with self._lock:
            return self._tables.get(source)

    def make(self, source: Source) -> None:
        """Make the engine's table of `source`, and keep it as long as that is held. About 40 us a batch."""
        table = self.register(source, None)
        with self._lock:
            self._tables[source] = table

    def register(self, source: Source, chunks: Sequence[int] | None) -> Table:
        """Return a table of `source`, or of some of its chunks. QueryError when the engine cannot take it."""
        check_columns(source)
        partitions = deal(cut(source.batches(chunks)), self._threads)
        if not any(partitions):
            partitions = [[_empty(source.schema)]]
        # `register_record_batches` takes the batches as they are; `register_arrow` would copy them.
        with self._lock:
            try:
                self._scratch.register_record_batches("held", partitions)
                return self._scratch.catalog().schema().table("held")
            except Exception as error:
                if (stop := interruption(error)) is not None:
                    raise stop from None
                raise QueryError(
                    f"the query engine cannot take {source.key!r}: {_first_line(error)}",
                    hint="to_arrow() reads it",
                ) from error
            finally:
                self._scratch.deregister_table("held")

    # -- private ------------------------------------------------------------------------------------------------------

    def _sql(self, query: str, resolve: Resolve, values: Values, *, as_written: bool) -> Recipe:
        found: dict[str, Source] = {}

        def remember(name: str) -> Source | None:
            source = found.get(name) or resolve(name)
            if source is not None:
                found[name] = source
            return source

        planned = self.plan(query, remember, self.made, self.make, values=values, as_written=as_written)
        pinned = dict(found)
        return Recipe(
            lambda planning: planning.sql(query, pinned, values=values, as_written=as_written),
            tuple(pinned.items()),
            planned,
            text=query,
        )

    def _other(self, settings: Mapping[str, str]) -> SessionContext:
        key = frozenset(settings.items())
        with self._lock:
            session = self._made.get(key)
            if session is None:
                session = self._made[key] = self._session(settings)
            return session

    def _session(self, settings: Mapping[str, str]) -> SessionContext:
        config = SessionConfig().with_target_partitions(self._threads).with_information_schema(False)
        always = {
            "datafusion.sql_parser.map_string_types_to_utf8view": "false",  # results keep the type of the columns
            "datafusion.execution.sort_spill_reservation_bytes": str(self._sort_reserve),
            "datafusion.execution.perfect_hash_join_min_key_density": str(KEY_DENSITY_MIN),
        }
        for name, value in {**always, **settings}.items():
            config = config.set(name, value)
        session = SessionContext(config, self._runtime)
        session.catalog().register_schema("public", self._catalog)
        return session


class _Planning:
    """`eau2.query.recipe.Planning` over the tables of `sessions`."""

    def __init__(self, sessions: Sessions, chosen: Mapping[Source, Sequence[int]]) -> None:
        self._sessions = sessions
        self._chosen = chosen
        self._made: dict[Source, Table] = {}  # of those with chunks left out

    def sql(self, query: str, tables: Mapping[str, Source], *, values: Values, as_written: bool) -> DataFrame:
        return self._sessions.plan(query, tables.get, self._known, self._make, values=values, as_written=as_written)

    def received(self, plan: bytes, tables: Mapping[str, Source]) -> DataFrame:
        session = self._sessions.plain
        return self._sessions.built(
            lambda: session.create_dataframe_from_logical_plan(consumed(session, plan)),
            tables.get,
            self._known,
            self._make,
        )

    def table(self, source: Source) -> DataFrame:
        name = table_name(source)
        query = f"select * from {quoted(name)}"
        return self._sessions.plan(query, {name: source}.get, self._known, self._make, values={}, as_written=False)

    def _known(self, source: Source) -> Table | None:
        return self._made.get(source) if source in self._chosen else self._sessions.made(source)

    def _make(self, source: Source) -> None:
        if source in self._chosen:
            self._made[source] = self._sessions.register(source, self._chosen[source])
        else:
            self._sessions.make(source)


def consumed(session: SessionContext, plan: bytes) -> LogicalPlan:
    """Return a serialized Substrait plan over the tables of `session`."""
    return Consumer.from_substrait_plan(session, Serde.deserialize_bytes(plan))


def check_columns(source: Source) -> None:
    """Raise QueryError where two columns have one name, which the engine cannot tell apart."""
    names = source.schema.names
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise QueryError(
            f"{source.key!r} has two columns named {twice!r}, and a query could not tell them apart",
            hint="to_arrow() reads it; put it again with other names to query it",
        )


def table_name(source: Source) -> str:
    return source.key or "rows"


def quoted(name: str) -> str:
    """Return `name` as SQL takes it to the letter: quoted, and quotes in it doubled."""
    return '"' + name.replace('"', '""') + '"'


def cut(batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Return views of `batches`, none of more than ROWS_PER_BATCH rows or about BATCH_BYTES."""
    pieces: list[pa.RecordBatch] = []
    for batch in batches:
        rows = batch.num_rows
        row_bytes = max(1, batch.nbytes // rows) if rows else 1
        step = max(1024, min(ROWS_PER_BATCH, BATCH_BYTES // row_bytes))
        pieces.extend(batch.slice(start, step) for start in range(0, rows, step))
    return pieces


def deal(batches: Sequence[pa.RecordBatch], parts: int) -> list[list[pa.RecordBatch]]:
    """Return `batches` as up to `parts` runs of about as many rows, in order, so that a filter keeps the order."""
    total = sum(batch.num_rows for batch in batches)
    dealt: list[list[pa.RecordBatch]] = [[] for _ in range(min(parts, max(1, len(batches))))]
    before = 0
    for batch in batches:
        dealt[before * len(dealt) // total].append(batch)
        before += batch.num_rows
    return dealt


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    # Of no rows, nulls are what Arrow can make of every type, also of unions.
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def _only_queries() -> SQLOptions:
    return SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]
