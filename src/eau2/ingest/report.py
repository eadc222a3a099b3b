"""What became of every line of a loaded file, for people and for programs."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eau2.errors import LoadError
from eau2.ingest.whole import WholeFile
from eau2.values.schema import type_name

if TYPE_CHECKING:
    from eau2.values.block import Reject, Widening

REJECTS_IN_REPORT_MAX = 100  # the file given as rejects= has all of them
_TEXT_BYTES_MAX = 200  # of a bad line, in the report


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no row, or (on_error="null") a cell that was made missing. Column 0 means the line as a whole."""

    line: int
    column: int
    reason: str
    text: str  # the start of the line


@dataclass(frozen=True, slots=True)
class Widened:
    """A column whose type became wider. `old` is "" for a column that began with this line."""

    column: str
    old: str
    new: str
    line: int

    @classmethod
    def of(cls, found: Widening, line: int) -> Widened:
        return cls(found.column, "" if found.old is None else type_name(found.old), type_name(found.new), line)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The account of a load: lines = rows + blank + bad. Lines count from 1 in the file, or in the byte range."""

    key: str
    lines: int
    rows: int
    blank: int
    bad: int
    columns: tuple[tuple[str, str], ...]  # name and type
    widened: tuple[Widened, ...]
    rejects: tuple[BadLine, ...]  # the first REJECTS_IN_REPORT_MAX
    format: str
    bytes: int  # read from the file
    seconds: float
    file: str = ""
    nulled: int = 0  # cells made missing by on_error="null"

    def to_dict(self) -> dict[str, Any]:
        """Return what `eau2 load --json` prints."""
        return {
            "key": self.key,
            "lines": self.lines,
            "rows": self.rows,
            "blank": self.blank,
            "bad": self.bad,
            "columns": [{"name": name, "type": type_} for name, type_ in self.columns],
            "widened": [{"column": w.column, "from": w.old, "to": w.new, "line": w.line} for w in self.widened],
            "rejects": [{"line": r.line, "column": r.column, "reason": r.reason} for r in self.rejects],
        }

    def __str__(self) -> str:
        rate = self.bytes / 1e6 / self.seconds if self.seconds > 0 else 0.0
        columns = ", ".join(f"{name} {type_}" for name, type_ in self.columns[:12])
        more = f", ... {len(self.columns)} columns" if len(self.columns) > 12 else ""
        head = f"{self.key or self.file}: {self.rows:,} rows of {self.lines:,} lines ({self.format}, {rate:,.0f} MB/s)"
        text = [head, f"  columns: {columns}{more}" if columns else "  no columns"]
        if self.blank or self.bad or self.nulled:
            text.append(f"  {self.blank:,} blank, {self.bad:,} bad, {self.nulled:,} cells made missing")
        for wide in self.widened[:20]:
            step = f"from {wide.old} to {wide.new}" if wide.old else f"new, {wide.new}"
            text.append(f"  column {wide.column}: {step} at line {wide.line:,}")
        text += [f"  line {b.line:,} column {b.column}: {b.reason}: {b.text[:60]!r}" for b in self.rejects[:5]]
        if len(self.rejects) > 5:
            text.append(f"  ... {self.bad + self.nulled - 5:,} more")
        return "\n".join(text)


class Rejects:
    """Gathers bad lines: counts all, keeps the first, and writes all to `path`, which appears whole or not at all.

    The file is NDJSON, a bad line or cell an object: {"line": 7, "column": 2, "reason": "...", "raw": "..."} with the
    line's text, or "raw_base64" in its place when that is not UTF-8.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.first: list[BadLine] = []
        self.nulled = 0
        self._path = path
        self._whole: WholeFile | None = None
        if path is not None:
            try:
                self._whole = WholeFile(path)
            except OSError as error:
                raise self._unwritable(error) from error

    def add(self, reject: Reject, line: int) -> None:
        self.nulled += reject.kept
        if len(self.first) < REJECTS_IN_REPORT_MAX:
            text = reject.raw[:_TEXT_BYTES_MAX].decode(errors="replace")
            self.first.append(BadLine(line, reject.column, reject.reason, text))
        if self._whole is not None:
            found = {"line": line, "column": reject.column, "reason": reject.reason, **_raw(reject.raw)}
            try:
                self._whole.file.write(json.dumps(found, ensure_ascii=False).encode() + b"\n")
            except OSError as error:
                raise self._unwritable(error) from error

    def publish(self) -> None:
        """Put the file in its place; it is empty when no line was bad."""
        if self._whole is not None:
            try:
                self._whole.publish()
            except OSError as error:
                raise self._unwritable(error) from error

    def discard(self) -> None:
        """Remove what was written, unless it was published."""
        if self._whole is not None:
            self._whole.discard()

    def _unwritable(self, error: OSError) -> LoadError:
        return LoadError(
            f"cannot write the bad lines to {os.fspath(self._path or '')}: {error.strerror}",
            file=os.fspath(self._path or ""),
            hint="give rejects= a path in a directory that can be written",
        )


def _raw(raw: bytes) -> dict[str, str]:
    try:
        return {"raw": raw.decode()}
    except UnicodeDecodeError:
        return {"raw_base64": base64.b64encode(raw).decode()}
