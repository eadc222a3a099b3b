"""Files become batches and an account of every line: `read(path).run(write)`."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from eau2.errors import InvalidOption, LoadError
from eau2.ingest.blocks import BLOCK_BYTES, lines_of, records_of
from eau2.ingest.columnar import open_table
from eau2.ingest.formats import (
    TEXT_FORMATS,
    Options,
    Text,
    array_as_lines,
    format_of,
    open_text,
    understand,
    unreadable,
)
from eau2.ingest.progress import Bar
from eau2.ingest.report import LoadReport, Rejects, Widened
from eau2.values.schema import Wanted, type_name, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future
    from typing import BinaryIO

    import pyarrow as pa

    from eau2.values.block import Block

Result = TypeVar("Result")
OnError = Literal["report", "null", "fail"]
_DAMAGE = OSError, EOFError, zlib.error  # the last two: of compressed text
BLOCKS_AHEAD = 2  # parsed and waiting, besides one a thread
REREAD_BYTES = 64 << 20  # a widening this early (or in the first half) starts again at once; later, all are found first


def read(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # the word users know
    schema: object = None,
    on_error: OnError = "report",
    rejects: str | os.PathLike[str] | None = None,
    widen: bool = True,
    byte_range: tuple[int, int] | None = None,
    progress: bool | None = None,
    threads: int | None = None,
) -> Reading:
    """Return how the file at `path` is to be read; nothing is read before `run`. The options are those of Store.load.

    A line is, in SoR and NDJSON: what a LF ends; in CSV and TSV: a record, or a blank line (the line of names is not
    counted, but numbers of lines are those of the file); in Parquet and Arrow: a row. With `byte_range`, lines are
    numbered from the first that starts in it, while the schema is still that of the whole file's first lines.
    InvalidOption for options that do not go together.
    """
    name = os.fspath(path)
    with contextlib.suppress(OSError):  # what is wrong with one of them is said when that is opened
        if rejects is not None and os.path.samefile(name, rejects):
            raise InvalidOption(f"rejects= would replace {name}, which is to be read", hint="name another file")
    if on_error not in ("report", "null", "fail"):
        raise InvalidOption(f"on_error= cannot be {on_error!r}", hint='use "report", "null" or "fail"')
    if threads is not None and threads < 1:
        raise InvalidOption(f"threads= is at least 1, not {threads}")
    format_, compressed = format_of(name, format)
    _check_range(byte_range, format_, compressed=compressed)
    given = wanted(schema)
    if format_ not in TEXT_FORMATS and given != Wanted():
        raise InvalidOption(f"schema= is for text; {format_} files have one", hint="cast with SQL after loading")
    options = Options(given, widen, on_error == "null", byte_range)
    return Reading(name, format_, compressed, options, on_error, rejects, progress, threads or _processors())


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_range(byte_range: Any, format_: str, *, compressed: bool) -> None:
    if byte_range is None:
        return
    numbers = isinstance(byte_range, (tuple, list)) and len(byte_range) == 2
    if not numbers or not all(type(each) is int for each in byte_range) or not 0 <= byte_range[0] <= byte_range[1]:
        raise InvalidOption(f"byte_range={byte_range!r:.80} is no range", hint="(start, end) with 0 <= start <= end")
    if format_ not in TEXT_FORMATS or compressed:
        raise InvalidOption("byte_range= is for text files that are not compressed")


class _Again(Exception):
    """A column was widened: what was written so far has the wrong type."""


@dataclass
class _Account:
    """What was counted in one reading of the file."""

    rejects: Rejects
    lines: int = 0
    rows: int = 0
    blank: int = 0
    bad: int = 0
    passed: int = 0  # line ends, from which the numbers of lines follow
    bytes: int = 0

    def add(self, block: Block, size: int) -> None:
        for reject in block.rejects:
            self.rejects.add(reject, self.passed + reject.line)
        self.lines += block.lines
        self.rows += block.rows
        self.blank += block.blank
        self.bad += block.bad
        self.passed += block.lines if block.span < 0 else block.span
        self.bytes += size


@dataclass
class Reading:
    """A file that is going to be read. Not thread-safe; `run` may be called again, and reads the file again."""

    path: str
    format: str
    compressed: bool
    options: Options
    on_error: OnError
    rejects_path: str | os.PathLike[str] | None
    progress: bool | None
    threads: int
    block_bytes: int = BLOCK_BYTES
    passes: int = field(default=0, init=False)  # how often the file was read, for tests and statistics

    def run(
        self, write: Callable[[pa.Schema, Iterator[pa.RecordBatch]], Result], key: str = ""
    ) -> tuple[Result, LoadReport]:
        """Return what `write(schema, batches)` returned for the whole file, and the account.

        `batches` come in the order of the file, a few in memory at a time. When a column has to be widened the iterator
        raises; `write` must then remove what it made and let the exception through, and it is called again with the
        wider schema: at once for a widening in the first half of the file (or its first REREAD_BYTES), else when the
        rest of the file has been searched for more. Together the file is read less than three times.
        LoadError when the file cannot be read, or with on_error="fail" for the first bad line.
        """
        started = time.perf_counter()
        bar = Bar(Path(self.path).name, self._size(), self.progress)
        self.passes = 0
        try:
            if self.format in TEXT_FORMATS:
                return _Texts(self, bar, key, started).run(write)
            return self._run_table(write, bar, key, started)
        finally:
            bar.close()

    def open_text(self) -> BinaryIO:
        file = open_text(self.path, compressed=self.compressed)
        if self.format != "ndjson" or self.options.byte_range is not None:
            return file
        try:
            return array_as_lines(file, self.path)
        except _DAMAGE as error:
            file.close()
            raise _unreadable_text(self.path, error) from error

    def report(
        self, account: _Account, schema: pa.Schema, key: str, widened: list[Widened], started: float
    ) -> LoadReport:
        assert account.lines == account.rows + account.blank + account.bad
        return LoadReport(
            key=key,
            lines=account.lines,
            rows=account.rows,
            blank=account.blank,
            bad=account.bad,
            columns=tuple((column.name, type_name(column.type)) for column in schema),
            widened=tuple(widened),
            rejects=tuple(account.rejects.first),
            format=self.format,
            bytes=account.bytes,
            seconds=time.perf_counter() - started,
            file=self.path,
            nulled=account.rejects.nulled,
        )

    def _size(self) -> int:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # what a directory is, opening it says
            raise LoadError(
                f"{self.path} is a pipe or a device, and a file is read more than once",
                file=self.path,
                hint="store it in a file first",
            )
        return found.st_size

    def _run_table(
        self, write: Callable[[pa.Schema, Iterator[pa.RecordBatch]], Result], bar: Bar, key: str, started: float
    ) -> tuple[Result, LoadReport]:
        account = _Account(Rejects(self.rejects_path), bytes=self._size())

        def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                account.lines += batch.num_rows
                account.rows += batch.num_rows
                bar.update(0)
                yield batch

        self.passes = 1
        try:
            with open_table(self.path, self.format) as (schema, batches):
                result = write(schema, counted(batches))
            account.rejects.publish()
        finally:
            account.rejects.discard()
        return result, self.report(account, schema, key, [], started)


class _Texts:
    """One `run` over lines of text: reads, and reads again when a column was widened."""

    def __init__(self, reading: Reading, bar: Bar, key: str, started: float) -> None:
        self._reading, self._bar, self._key, self._started = reading, bar, key, started
        with reading.open_text() as file:
            try:
                self._text: Text = understand(file, reading.path, reading.format, reading.options)
            except _DAMAGE as error:
                raise _unreadable_text(reading.path, error) from error
        self._schema = self._text.schema  # grows
        self._widened: list[Widened] = []
        self._reread = 0  # bytes that were read for nothing
        self._again = False

    def run(self, write: Callable[[pa.Schema, Iterator[pa.RecordBatch]], Result]) -> tuple[Result, LoadReport]:
        while True:
            account = _Account(Rejects(self._reading.rejects_path), passed=self._lines_before())
            self._again = False
            self._reading.passes += 1
            schema = self._schema
            batches = self._batches(account)
            try:
                result = write(schema, batches)
                if not self._again:
                    for _ in batches:  # a writer may stop early, but the account is of the whole file
                        pass
                    account.rejects.publish()
                    return result, self._reading.report(account, schema, self._key, self._widened, self._started)
            except Exception:
                if not self._again:
                    raise
            finally:
                batches.close()
                account.rejects.discard()

    def _lines_before(self) -> int:
        return self._text.lines_before if self._reading.options.byte_range is None else 0

    def _batches(self, account: _Account) -> Generator[pa.RecordBatch, None, None]:
        waiting: deque[tuple[pa.Schema, pa.Buffer, Future[Block]]] = deque()
        reading = self._reading
        with reading.open_text() as file, ThreadPoolExecutor(reading.threads, "eau2-load") as pool:
            try:
                for data in self._blocks(file):
                    job = pool.submit(self._text.lines.parse, data, self._schema)
                    waiting.append((self._schema, data, job))
                    if len(waiting) > reading.threads + BLOCKS_AHEAD:
                        yield from self._take(account, *waiting.popleft())
                while waiting:
                    yield from self._take(account, *waiting.popleft())
            finally:
                for _, _, job in waiting:
                    job.cancel()
        if self._again:
            raise _Again

    def _blocks(self, file: BinaryIO) -> Iterator[pa.Buffer]:
        byte_range, body = self._reading.options.byte_range, self._text.body
        if byte_range is not None:
            byte_range = max(0, byte_range[0] - body), max(0, byte_range[1] - body)
        delimiter = self._text.delimiter
        cut = partial(records_of, delimiter=delimiter) if delimiter else lines_of
        try:
            file.read(body)
            yield from cut(file, name=self._reading.path, byte_range=byte_range, size=self._reading.block_bytes)
        except _DAMAGE as error:
            raise _unreadable_text(self._reading.path, error) from error

    def _take(
        self, account: _Account, schema: pa.Schema, data: pa.Buffer, job: Future[Block]
    ) -> Iterator[pa.RecordBatch]:
        block = job.result()
        if block.schema != schema:
            if schema != self._schema:  # it was parsed with what has been widened meanwhile
                schema, block = self._schema, self._text.lines.parse(data, self._schema)
            self._widen(account, schema, block, data.size)
        account.add(block, data.size)
        self._bar.update(account.bytes)
        if self._reading.on_error == "fail" and account.rejects.first:
            raise self._failure(account)
        if not self._again:
            yield from block.batches

    def _widen(self, account: _Account, schema: pa.Schema, block: Block, size: int) -> None:
        if block.schema == schema:
            return
        self._widened += [Widened.of(found, account.passed + found.line) for found in block.widened]
        self._schema, self._again = block.schema, True
        wasted = account.bytes + size
        if self._reread + wasted <= max(REREAD_BYTES, self._reading._size() // 2):
            self._reread += wasted
            raise _Again

    def _failure(self, account: _Account) -> LoadError:
        bad, path = account.rejects.first[0], self._reading.path
        return LoadError(
            f"line {bad.line:,} column {bad.column} of {path}: {bad.reason}: {bad.text!r:.200}",
            file=path,
            line=bad.line,
            column=bad.column,
            hint='on_error="report" leaves bad lines out and says which',
        )


def _unreadable_text(path: str, error: Exception) -> LoadError:
    return LoadError(f"cannot read {path}: {error}", file=path, hint="is it whole?")
