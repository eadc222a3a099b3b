"""Frame: a named, typed, read-only table, or the lazy answer of a query over some."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

import pyarrow as pa

from eau2.errors import InvalidOption, WrongKind
from eau2.frame import display
from eau2.frame.column import Column
from eau2.frame.description import described
from eau2.frame.operations import Operations, checked_count, whole_number
from eau2.query import mapping
from eau2.query.source import Source, unnamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    import polars as pl
    from datafusion import DataFrame

    from eau2.query.answering import Answering
    from eau2.query.recipe import Recipe

KEPT_BYTES_MAX = 16 << 20  # an answer up to this stays with its frame
PREVIEW_ROWS = 5
PREVIEW_INPUT_ROWS_MAX = 200_000  # a frame that reads more is not run only to be shown

Result = TypeVar("Result")
Combined = TypeVar("Combined")


class Frame(Operations):
    """A read-only table. Either *stored*: a version of a key, held. Or *derived*: a query, which runs when it is read.

    A stored frame is mapped: nothing is read until it is touched, nothing is copied, and it stays readable whatever is
    put or deleted meanwhile, as long as somebody holds the frame or anything read from it. A derived frame is a recipe
    over the stored frames of the moment it was made. Each reading runs it; an answer of up to 16 MB is kept with the
    frame and not computed again, a larger one is never kept: `store.put` it, or keep what `to_arrow` returns.

    Reading raises Corrupt when a chunk is not what was written, and for a derived frame QueryError,
    QueryOutOfMemory, DiskFull, StoreClosed. Thread-safe. Not iterable, no len(): see `batches` and `rows`.
    """

    def __init__(self, engine: Answering, *, source: Source | None = None, recipe: Recipe | None = None) -> None:
        self._engine = engine
        self._source = source
        self._made = recipe
        self._lock = threading.Lock()  # guards what is kept, below
        self._kept: pa.Table | None = None
        self._rows: int | None = None

    @classmethod
    def stored(cls, source: Source, engine: Answering) -> Frame:
        """The frame held as `source`."""
        return cls(engine, source=source)

    @classmethod
    def derived(cls, recipe: Recipe, engine: Answering) -> Frame:
        """The lazy answer of `recipe`."""
        return cls(engine, recipe=recipe)

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def source(self) -> Source | None:
        """What a stored frame holds; None for a derived one. For the floors of eau2."""
        return self._source

    @property
    def key(self) -> str | None:
        """The key it was read from; None for a derived frame."""
        return (self._source.key or None) if self._source is not None else None

    @property
    def version(self) -> int | None:
        """The version of the key; None for a derived frame."""
        return (self._source.version or None) if self._source is not None else None

    @property
    def schema(self) -> pa.Schema:
        """Names and Arrow types of the columns."""
        return self._source.schema if self._source is not None else self._engine.schema(self._recipe())

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @property
    def rows(self) -> int:
        """The number of rows. A derived frame counts them once, which runs its query, and remembers."""
        if self._source is not None:
            return self._source.manifest.rows
        with self._lock:
            if self._rows is not None:
                return self._rows
        count = self._engine.queries.counted(self._engine, self._recipe())
        with self._lock:
            self._rows = count
        return count

    @property
    def bytes(self) -> int:
        """The size of its chunks; 0 for a derived frame, which has none."""
        return self._source.manifest.size if self._source is not None else 0

    @property
    def chunks(self) -> int:
        """The number of its chunks; 0 for a derived frame, which has none."""
        return len(self._source.buffers) if self._source is not None else 0

    def __repr__(self) -> str:
        shown = self._preview()
        if shown is None:
            return f"<{self._title()}: {display.schema_text(self.schema)}>\n(not run yet: to_arrow(), head() run it)"
        return f"<{self._title()}: {self._shape()}>\n{display.text_table(shown, self.schema)}" + self._rest(shown)

    def _repr_html_(self) -> str:
        shown = self._preview()
        if shown is None:
            return display.html_table(self.schema.empty_table(), self.schema, f"{self._title()}, not run yet")
        return display.html_table(shown, self.schema, f"{self._title()}: {self._shape()}")

    def __iter__(self) -> NoReturn:
        raise WrongKind(
            "a frame is not iterated row by row",
            hint="to_pandas() gives all rows, batches() some at a time, map_rows() runs a function on each",
        )

    def _ipython_key_completions_(self) -> list[str]:
        return self.columns

    def __reduce__(self) -> NoReturn:
        raise WrongKind(
            "a frame is not pickled: it is files mapped by this process",
            hint="pass its key, and open the store there; or pass to_arrow()",
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def to_arrow(self) -> pa.Table:
        """All rows. A stored frame: views into the mapped files, read-only, in milliseconds whatever the size."""
        if self._source is not None:
            self._source.verify()
            return self._source.table
        with self._lock:
            if self._kept is not None:
                return self._kept
        answer = self._engine.queries.collected(self._engine, self._recipe())
        with self._lock:
            self._rows = answer.num_rows
            if answer.nbytes <= KEPT_BYTES_MAX:
                self._kept = answer
        return answer

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame of the caller's own, which may be written to."""
        import pandas  # here: optional, and heavy

        frame = self.to_arrow().to_pandas()
        if int(pandas.__version__.partition(".")[0]) < 3:
            frame = frame.copy()  # before pandas 3 a column that is a view of the file could not be written to
        return frame

    def to_polars(self) -> pl.DataFrame:
        """All rows as a Polars frame, without a copy where Polars has the same layout."""
        import polars  # here: optional, and heavy

        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as record batches: memory stays bounded, also for a derived frame larger than memory."""
        if self._source is not None:
            self._source.verify()
            return (batch for index in range(len(self._source.buffers)) for batch in self._source.batches([index]))
        with self._lock:
            kept = self._kept
        if kept is not None:
            return iter(kept.to_batches())
        engine, recipe = self._engine, self._recipe()
        return engine.queries.streamed(engine, recipe, engine.stream(recipe))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        if self._source is not None:
            return self.to_arrow().__arrow_c_stream__(requested_schema)
        return pa.RecordBatchReader.from_batches(*read_batches(self)).__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self.schema.__arrow_c_schema__()

    def value(self, column: str, *, row: int) -> Any:
        """The value of one cell as a Python object. A stored frame reads one chunk only.

        UnknownColumn; InvalidOption when there is no such row.
        """
        index = self._index(column)
        if not 0 <= (row := whole_number(row, "row")) < self.rows:
            raise InvalidOption(f"row is from 0 to {self.rows - 1} in {self._title()}, not {row!r}")
        if self._source is None:
            return self.to_arrow().column(index)[row].as_py()
        chunk, place = self._source.locate(row)
        self._source.verify([chunk])
        return self._source.chunk(chunk).column(index)[place].as_py()

    def head(self, n: int = PREVIEW_ROWS) -> Frame:
        """The first `n` rows, read now, as a frame."""
        return self._held(self._first(checked_count(n)))

    def tail(self, n: int = PREVIEW_ROWS) -> Frame:
        """The last `n` rows, read now, as a frame. A derived frame is read whole."""
        table = self.to_arrow()
        return self._held(table.slice(max(0, table.num_rows - checked_count(n))))

    def describe(self) -> pa.Table:
        """A row a column: values, nulls, least, most, and for numbers mean and standard deviation. One query."""
        return described(self)

    def explain(self) -> display.Explanation:
        """What reading it does: the chunks that are read, of how many, on which nodes, and the engine's plan. Runs
        nothing. Where nodes are processes of their own, also which parts of it run there and what moves: by guesses,
        and once it was read, as it was."""
        recipe, engine = self._recipe(), self._engine
        return display.Explanation(tuple(engine.readings(recipe)), engine.plan_text(recipe), engine.moves(recipe))

    # -- columns -------------------------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, name: str) -> Column: ...

    @overload
    def __getitem__(self, name: list[str]) -> Frame: ...

    def __getitem__(self, name: str | list[str]) -> Column | Frame:
        """`frame["a"]` is a lazy column, `frame[["a", "b"]]` a frame with those. UnknownColumn."""
        if isinstance(name, list):
            return self.select(*name)
        if not isinstance(name, str):
            raise WrongKind(
                f"a frame is indexed by the names of columns, not {type(name).__name__}",
                hint="value(column, row=) reads a cell, limit(count, offset=) some rows",
            )
        self._index(name)
        return Column(self, name)

    # -- the caller's functions ---------------------------------------------------------------------------------------

    @overload
    def map_chunks(
        self,
        function: Callable[[pa.Table], Result],
        combine: None = None,
        *,
        workers: mapping.Workers = "threads",
        timeout_seconds: float | None = None,
    ) -> list[Result]: ...

    @overload
    def map_chunks(
        self,
        function: Callable[[pa.Table], Result],
        combine: Callable[[list[Result]], Combined],
        *,
        workers: mapping.Workers = "threads",
        timeout_seconds: float | None = None,
    ) -> Combined: ...

    def map_chunks(
        self,
        function: Callable[[pa.Table], Any],
        combine: Callable[[list[Any]], Any] | None = None,
        *,
        workers: mapping.Workers = "threads",
        timeout_seconds: float | None = None,
    ) -> Any:
        """Run `function` on every chunk, in parallel, each on a node that has it; return the results in chunk order, or
        `combine(results)`.

        `combine` is called once, with the list: `sum`, `pyarrow.concat_tables`; for a function of two results
        `lambda results: functools.reduce(function, results)`. workers: "threads" suit functions over whole columns,
        "processes" those that are slow Python; the rows are mapped there, not sent. None decides by the size. Nodes
        that are processes of their own have worker processes in any case; the caller's own module files travel there.
        The chunks of a derived frame are its answer, cut at about 16 MB.

        FunctionFailed (the function's exception is its `__cause__`) names chunk and node, and stops the others; so
        does a worker process that dies. WaitTimeout after `timeout_seconds`. QueryError when the function cannot be
        sent.
        """
        return mapping.map_chunks(self, function, combine, workers=workers, timeout_seconds=timeout_seconds)

    def map_rows(
        self,
        function: Callable[[dict[str, Any]], Result],
        *,
        workers: mapping.Workers = None,
        timeout_seconds: float | None = None,
    ) -> list[Result]:
        """Run `function` on every row, a dict; return the results in row order. Errors as `map_chunks`.

        In processes when there are many rows, and in the calling thread when there are few. About 1 us a cell: over
        whole columns `map_chunks` is a hundred times faster, and `sql` more.
        """
        return mapping.map_rows(self, function, workers=workers, timeout_seconds=timeout_seconds)

    def filter_rows(
        self,
        function: Callable[[dict[str, Any]], bool],
        *,
        workers: mapping.Workers = None,
        timeout_seconds: float | None = None,
    ) -> Frame:
        """The rows, in order, for which `function` of the row, a dict, is true. Runs now; otherwise as `map_rows`.

        What is kept lies in files without names, mapped: it need not fit in memory, and ends with the frame.
        """
        kept = mapping.filter_rows(self, function, workers=workers, timeout_seconds=timeout_seconds)
        return Frame.stored(kept, self._engine)

    # -- private ------------------------------------------------------------------------------------------------------

    def _recipe(self) -> Recipe:
        if self._made is None:
            assert self._source is not None
            self._made = self._engine.scan(self._source)
        return self._made

    def _then(self, step: Callable[..., DataFrame], *others: Frame) -> Frame:
        for other in others:
            self._check_other(other)
        recipes = [frame._recipe() for frame in (self, *others)]
        return Frame.derived(self._engine.extend(step, *recipes), self._engine)

    def _held(self, table: pa.Table) -> Frame:
        return Frame.stored(unnamed(table.schema, [table.combine_chunks()]), self._engine)

    def _first(self, count: int) -> pa.Table:
        """The first `count` rows; no chunk or batch after them is read."""
        if self._source is not None:
            self._source.verify()
            return self._source.first(count)
        with self._lock:
            kept = self._kept
        if kept is not None:
            return kept.slice(0, min(count, kept.num_rows))  # beyond its end, a table without columns would grow
        found: list[pa.RecordBatch] = []
        engine, recipe = self._engine, self._recipe()
        for batch in engine.queries.streamed(engine, recipe, engine.first(recipe, count)):
            found.append(batch.slice(0, count))
            count -= found[-1].num_rows
            if count <= 0:
                break
        return pa.Table.from_batches(found) if found else self.schema.empty_table()

    def _column(self, name: str) -> pa.ChunkedArray:
        index = self._index(name)
        if self._source is not None:
            self._source.verify()
            return self._source.table.column(index)
        with self._lock:
            kept = self._kept
        return kept.column(index) if kept is not None else self.select(name).to_arrow().column(0)

    def _preview(self) -> pa.Table | None:
        """The first rows where that is cheap, else None."""
        if self._source is None and self._kept is None:
            read = sum(source.manifest.rows for _, source in self._recipe().reads)
            if read > PREVIEW_INPUT_ROWS_MAX:
                return None
            self.to_arrow()
        return self._first(PREVIEW_ROWS)

    def _title(self) -> str:
        return f"Frame {self._source.title}" if self._source is not None else "Frame of a query"

    def _shape(self) -> str:
        text = f"{display.counted(self.rows, 'row')} x {display.counted(len(self.schema), 'column')}"
        if self._source is None:
            return text
        chunks = len(self._source.buffers)
        return f"{text}, {display.counted(chunks, 'chunk')}, {display.size_text(self._source.manifest.size)}"

    def _rest(self, shown: pa.Table) -> str:
        more = self.rows - shown.num_rows
        return f"\nand {display.counted(more, 'row')} more" if more > 0 else ""


def read_batches(frame: Frame) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema of the rows of `frame`, and the rows as `batches` gives them. Runs its query."""
    batches = frame.batches()
    first = next(batches, None)  # its schema is the answer's, to the last flag
    schema = frame.schema if first is None else first.schema
    return schema, itertools.chain(() if first is None else (first,), batches)
