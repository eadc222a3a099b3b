"""The store: names for bytes and frames, over one or many nodes."""

from __future__ import annotations

import time
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

from eau2.errors import Eau2Error, InvalidOption, KeyMissing, ValueTooLarge, WaitTimeout, WrongKind
from eau2.metrics.report import checked_metric
from eau2.store.arguments import check_keys, checked_path, checked_prefix, checked_seconds, checked_values, several
from eau2.store.lookup import look_up, look_up_many
from eau2.store.nodes import Expect, Kind, NodeCheck, NodeStatistics, Write, refusal
from eau2.store.puts import Puts
from eau2.values.key import check_key

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    import pyarrow as pa

    from eau2.frame.frame import Frame
    from eau2.ingest.report import LoadReport
    from eau2.metrics.report import Report
    from eau2.store.membership import EpochChange, Member, WayIn
    from eau2.store.nodes import Node, Nodes
    from eau2.store.tables import Tables

VALUE_BYTES_MAX = 64 << 20  # bytes values are read and written whole; larger things are files or frames, in chunks

Default = TypeVar("Default")


class _Required:
    """The default of `default=`: absence is an error."""


_REQUIRED = _Required()


class Store:
    """A key-value store whose values are bytes or read-only frames. Make one with `eau2.open`.

    Keys are text of 1 to 512 bytes of UTF-8 without control characters. All verbs are synchronous and thread-safe, and
    what one process has written every other sees at once. Every verb raises InvalidKey for what is no key, StoreClosed
    after `close`, Corrupt when a checksum does not hold, and StoreBusy when the write lock is held for over 30 seconds;
    those that write also DiskFull and ReadOnly, and then nothing was changed.
    """

    def __init__(self, nodes: Nodes, tables: Tables, *, name: str) -> None:
        self._nodes = nodes
        self._tables = tables
        self._name = name
        self._node = nodes.whole()

    def __repr__(self) -> str:
        try:
            counts = self.statistics()
        except Eau2Error as error:
            return f"<Store {self._name}: {error.message}>"
        return f"<Store {self._name}: {counts.keys} keys, {counts.frames} of them frames>"

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise WrongKind(
            "a store is not pickled: it belongs to this process", hint="pass its path, and open it in the other process"
        )

    def close(self) -> None:
        """End the store's threads and processes. Frames that are held stay readable. May be called again."""
        self._tables.close()
        self._nodes.close()

    # -- one key ------------------------------------------------------------------------------------------------------

    def put(self, key: str, value: object, *, schema: pa.Schema | None = None, node: str | None = None) -> int:
        """Create or replace what is under `key`; return its new version.

        `value` is bytes (at most 64 MiB) or a table: pyarrow, pandas, Polars, a dict of columns, anything with
        `__arrow_c_stream__`, an iterator of record batches, or of rows with `schema=`. A frame is seen whole or not at
        all; an iterator larger than memory is fine. `node` pins a frame's home: its chunks go round the nodes from
        that one and not from the key's home (bytes are where their key is). Raises InvalidValue, ValueTooLarge,
        InvalidOption.
        """
        return self._write(key, value, Expect.ANYTHING, schema, node)

    def create(self, key: str, value: object, *, schema: pa.Schema | None = None) -> int:
        """As `put`, but only where nothing is: KeyExists otherwise. Of several that try at once, one succeeds."""
        return self._write(key, value, Expect.ABSENT, schema)

    def update(self, key: str, value: object, *, if_version: int | None = None, schema: pa.Schema | None = None) -> int:
        """As `put`, but only where something is (else KeyMissing), of version `if_version` (else VersionConflict)."""
        return self._write(key, value, _expected(if_version, Expect.PRESENT), schema)

    @overload
    def get(self, key: str) -> bytes | Frame: ...

    @overload
    def get(self, key: str, *, default: Default) -> bytes | Frame | Default: ...

    def get(self, key: str, *, default: object = _REQUIRED) -> object:
        """Return what is under `key`: bytes, or a Frame (also for a file). KeyMissing when absent, unless `default`."""
        entry = self._node.get(check_key(key))
        if entry is not None and entry.kind == Kind.BYTES:
            return entry.payload
        found = look_up(self._node, self._tables, key, entry)
        if found is not None:
            return found
        if default is _REQUIRED:
            raise self._missing(key)
        return default

    def frame(self, key: str) -> Frame:
        """Return the frame under `key`, lazily: its chunks are mapped, nothing is read. KeyMissing, WrongKind."""
        found = look_up(self._node, self._tables, key, self._node.get(check_key(key)))
        if found is None:
            raise self._missing(key)
        if isinstance(found, bytes):
            raise WrongKind(f"{key!r} holds {len(found):,} bytes, not a frame", hint="store.get(key) reads them")
        return found

    def version(self, key: str) -> int:
        """Return the version under `key`, for `if_version=`: read it before the value. KeyMissing when absent.

        The first version of a key is 1; the versions of a key only grow, also across its deletion.
        """
        entry = self._node.get(check_key(key))
        if entry is None:
            raise self._missing(key)
        return entry.version

    def wait(self, key: str, *, timeout_seconds: float = 60.0) -> bytes | Frame:
        """Return what is under `key` as soon as any process has put it. WaitTimeout when that takes too long.

        Wakes within milliseconds of a put in this process and within 20 ms of one in another.
        """
        check_key(key)
        deadline = time.monotonic() + checked_seconds(timeout_seconds)
        while True:
            generation = self._node.generation()  # before the look, so that no write is slept through
            found = look_up(self._node, self._tables, key, self._node.get(key))
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeout(
                    f"nothing was put under {key!r} within {timeout_seconds:g} seconds",
                    hint="wait longer with timeout_seconds=, or see whether the process that puts it lives",
                )
            self._node.wait_for_write(generation, left)

    def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Delete what is under `key`; return whether there was anything. With `if_version`, KeyMissing and
        VersionConflict as for `update`. Frames that are held stay readable."""
        write = Write(check_key(key), Kind.DELETED, expect=_expected(if_version, Expect.ANYTHING))
        deleted = self._apply([write])[0] > 0
        self._tables.drop_stale(self._node)
        return deleted

    def exists(self, key: str) -> bool:
        """Whether anything is under `key`."""
        return self._node.get(check_key(key)) is not None

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`, sorted by code point, as they are now. About 1 us a key."""
        return self._node.keys(checked_prefix(prefix))

    # -- many keys ----------------------------------------------------------------------------------------------------

    def put_many(self, values: Mapping[str, object]) -> dict[str, int]:
        """Put all of `values` at once: every reader sees all of them or none. Return each key's new version.

        For 64 or more values of up to 384 bytes about 2 us a key, 4 for one not put before; the first other write after
        many of these takes up to half a second. Larger ones are 8 us and more. Raises as `put`, and then none was put.
        """
        given = dict(checked_values(values))
        check_keys(given)
        if (puts := Puts.of(given, VALUE_BYTES_MAX)) is not None:  # as below, at a tenth of the cost
            return dict(zip(given, self._apply(puts), strict=True))
        writes: list[Write] = []
        try:
            for key, value in given.items():
                writes.append(self._change(key, value, Expect.ANYTHING, None))
        except BaseException:
            self._node.discard([staged for write in writes for staged in write.chunks])
            raise
        return dict(zip(given, self._apply(writes), strict=True))

    @overload
    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | Frame]: ...

    @overload
    def get_many(self, keys: Iterable[str], *, default: Default) -> dict[str, bytes | Frame | Default]: ...

    def get_many(self, keys: Iterable[str], *, default: object = _REQUIRED) -> Any:
        """Return what is under each of `keys`, in their order, all of one moment.

        KeyMissing names the first absent key, unless `default`. About 1 us a key.
        """
        names = list(several(keys))
        check_keys(names)
        found = look_up_many(self._node, self._tables, names)
        if len(found) == len(names):
            return found
        absent = [key for key in names if key not in found]
        if absent and default is _REQUIRED:
            raise self._missing(absent[0])
        return {key: found.get(key, default) for key in names}

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete all of `keys` at once; return how many there were."""
        writes = [Write(check_key(key), Kind.DELETED) for key in several(keys)]
        deleted = sum(version > 0 for version in self._apply(writes))
        self._tables.drop_stale(self._node)
        return deleted

    # -- files and tables ---------------------------------------------------------------------------------------------

    def put_file(self, key: str, path: str | os.PathLike[str]) -> int:
        """Store the file at `path`, text or binary, of any size, under `key`; return the new version. LoadError."""
        payload, chunks = self._tables.stage_file(self._node, check_key(key), checked_path(path))
        return self._apply([Write(key, Kind.FRAME, payload, chunks)])[0]

    def get_file(self, key: str, path: str | os.PathLike[str]) -> int:
        """Write the file (or the bytes) under `key` to `path`, whole or not at all; return its size in bytes.

        KeyMissing; WrongKind for a frame that is no file; LoadError when `path` cannot be written.
        """
        return self._tables.write_file(key, self.get(key), checked_path(path))

    def load(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,  # the word users know
        schema: object = None,
        on_error: Literal["report", "null", "fail"] = "report",
        rejects: str | os.PathLike[str] | None = None,
        widen: bool = True,
        byte_range: tuple[int, int] | None = None,
        progress: bool | None = None,
    ) -> LoadReport:
        """Read the file at `path` as a frame under `key`; return the account: lines = rows + blank + bad.

        format: by the extension (.sor .ltgt .csv .tsv .parquet .arrow .feather .ndjson .jsonl, ...) unless given.
        schema: column names and/or types; types switch inference off. widen: widen a column that a later value does not
        fit (SoR, CSV), otherwise the line is bad. on_error: bad lines are left out and reported, made missing ("null"),
        or an error ("fail"); rejects: a path that gets all of them. byte_range: only the lines that start in
        [start, end). progress: a bar; by default on a terminal after a second. LoadError says file, line and column,
        and then nothing was stored.
        """
        return self._tables.load(
            self,
            check_key(key),
            checked_path(path),
            format=format,
            schema=schema,
            on_error=on_error,
            rejects=rejects,
            widen=widen,
            byte_range=byte_range,
            progress=progress,
        )

    def sql(self, query: str, *, parameters: Sequence[object] | Mapping[str, object] | None = None) -> Frame:
        """Return the answer of `query` as a lazy Frame. Keys are table names; those with `/` or blanks are quoted.

        parameters: a list for `?`, or `$1`, `$2`, in the query; a dict for `$name`. They are Python's or pyarrow's
        scalars, stand where a literal may, and never become text: what they hold is no SQL.
        The tables are those of this moment. UnknownTable, UnknownColumn and QueryError are raised here, and what can
        only be found by running when the answer is read.
        """
        return self._tables.sql(self, query, parameters)

    # -- the store itself ---------------------------------------------------------------------------------------------

    def check(self) -> NodeCheck:
        """Compute every checksum, compare every reference, and report all that is wrong. Reads the whole store."""
        return self._node.check()

    def rebalance(self) -> int:
        """Move the chunks of stored frames to where they would be put today, so that nodes that joined since have their
        share; return how many copies were made. 0 on one node. Frames stay readable, and keep their version."""
        return self._node.rebalance()

    def statistics(self) -> NodeStatistics:
        """Return sizes now and counts since this process opened the store: of all nodes, and in `nodes` of each."""
        found = self._node.statistics()
        return found if found.nodes else replace(found, nodes=(found,))

    def reports(self) -> tuple[Report, ...]:
        """Return what each node last said of itself, and its age, in natural order of names: counts, sizes, its process
        and machine, what doors and users publish. Any node answers for all; NodeUnavailable when none does."""
        return self._node.reports()

    def publish_metric(self, name: str, value: float, *, unit: str = "", help: str = "", kind: str = "gauge") -> None:
        """Have a figure of one's own in the reports, of the nearest node, until its process ends or it is published
        anew. name: snake_case, none of eau2's own; at most 500 on a node. kind: "gauge", or "counter" for what only
        grows. InvalidOption; InvalidValue for what is no finite number."""
        self._node.publish([checked_metric(name, value, unit=unit, help=help, kind=kind)])

    def members(self) -> tuple[Member, ...]:
        """Return what each node is now, since when, and who says so, in the order of names; those that died too. One
        call of a cluster's coordinator; NodeUnavailable when it does not answer."""
        return self._nodes.membership()

    def epochs(self) -> tuple[EpochChange, ...]:
        """Return the latest changes of who is a member, at most 300, the oldest first, and why. As `members`."""
        return self._nodes.epochs()

    def way_in(self) -> WayIn:
        """Return how a machine joins: see `eau2 join`. InvalidOption where none can; ClusterUnavailable."""
        return self._nodes.way_in()

    @property
    def name(self) -> str:
        """What it was opened as: a path, or "ray:..." or "eau2://..."."""
        return self._name

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the live nodes, in natural order: one of a program's instances runs on each."""
        return self._nodes.members()

    @property
    def node(self) -> Node:
        """The home of every key: for the floors above."""
        return self._node

    @property
    def tables(self) -> Tables:
        """What knows frames: for the floors above."""
        return self._tables

    # -- private ------------------------------------------------------------------------------------------------------

    def _write(self, key: str, value: object, expect: int, schema: pa.Schema | None, home: str | None = None) -> int:
        check_key(key)
        if expect != Expect.ANYTHING and not isinstance(value, (bytes, bytearray, memoryview)):
            self._refuse_early(key, expect)
        return self._apply([self._change(key, value, expect, schema, home)])[0]

    def _refuse_early(self, key: str, expect: int) -> None:
        """Find out before a table is read and staged that its write would be refused; the write itself looks again."""
        entry = self._node.get(key)
        error = refusal(key, expect, None if entry is None else entry.version)
        if error is not None:
            raise error

    def _change(self, key: str, value: object, expect: int, schema: pa.Schema | None, home: str | None = None) -> Write:
        if isinstance(value, (bytes, bytearray, memoryview)):
            if home is not None:
                raise InvalidOption(f"{key!r}: node= is for frames", hint="bytes are where their key is")
            size = value.nbytes if isinstance(value, memoryview) else len(value)
            if size > VALUE_BYTES_MAX:
                raise ValueTooLarge(
                    f"{key!r}: {size:,} bytes are over the limit of {VALUE_BYTES_MAX:,} for one value",
                    hint="store.put_file() stores a file of any size, store.put() a frame",
                )
            return Write(key, Kind.BYTES, bytes(value), expect=expect)
        payload, chunks = self._tables.stage(self._node, key, value, schema, home or "")
        return Write(key, Kind.FRAME, payload, chunks, expect)

    def _apply(self, writes: Sequence[Write]) -> list[int]:
        outcomes = self._node.write(writes) if writes else []
        versions: list[Any] = outcomes
        if not set(map(type, outcomes)) <= {int}:
            for write, outcome in zip(writes, outcomes, strict=True):
                if isinstance(outcome, KeyMissing):
                    raise self._missing(write.key)
                if isinstance(outcome, Eau2Error):
                    raise outcome
        return versions

    def _missing(self, key: str) -> KeyMissing:
        return KeyMissing(f"no value under {key!r}", near=lambda: self._near(key))

    def _near(self, key: str) -> list[str]:
        """Keys much like `key`, among the first thousand and those that begin like it."""
        known = {*self._node.keys("", limit=1000), *self._node.keys(key[: (len(key) + 1) // 2], limit=1000)}
        return get_close_matches(key, sorted(known), n=3)


def _expected(if_version: object, otherwise: Expect) -> int:
    if if_version is None:
        return otherwise
    if isinstance(if_version, bool) or not isinstance(if_version, int) or if_version < 1:
        raise InvalidOption(f"if_version is a version, from 1, not {if_version!r}", hint="put and version() return it")
    return if_version
