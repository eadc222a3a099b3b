"""Which format a file has, and how a text file of that format is opened."""

from __future__ import annotations

import gzip
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa
from pyarrow import csv

from eau2.errors import InvalidOption, LoadError
from eau2.values.delimited import Delimited, is_readable
from eau2.values.ndjson import Ndjson
from eau2.values.quotes import Quotes, first_record, line_ends
from eau2.values.schema import SOR_TYPES, Wanted, type_name
from eau2.values.sor import LINES_FOR_INFERENCE, Sor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from eau2.values.block import Lines

EXTENSIONS = {
    "sor": "sor", "ltgt": "sor", "csv": "csv", "tsv": "tsv", "parquet": "parquet", "pq": "parquet",
    "arrow": "arrow", "arrows": "arrow", "feather": "arrow", "ipc": "arrow",
    "ndjson": "ndjson", "jsonl": "ndjson", "json": "ndjson",
}  # fmt: skip
FORMATS = ("sor", "csv", "tsv", "parquet", "arrow", "ndjson")
TEXT_FORMATS = ("sor", "csv", "tsv", "ndjson")
HEAD_BYTES = 1 << 20  # what CSV and NDJSON types are inferred from
HEAD_BYTES_MAX = 64 << 20  # what the first 500 lines of SoR may take
ARRAY_BYTES_MAX = 256 << 20  # a .json file that is one array is read whole
_BOM = b"\xef\xbb\xbf"
_NO_NAMES = "for a file without a line of names give a list of names, or of (name, type)"
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\x1f\x8b": "gzip"}


@dataclass(frozen=True, slots=True)
class Options:
    """How `read` was asked to read."""

    wanted: Wanted
    widen: bool
    null: bool
    byte_range: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Text:
    """A text file that is understood: how to parse it, its first schema, and where its lines begin."""

    lines: Lines
    schema: pa.Schema
    body: int = 0  # bytes before the first line of data
    lines_before: int = 0  # lines in them
    delimiter: str = ""  # where quoted values may hold line ends


def format_of(path: str, given: str | None) -> tuple[str, bool]:
    """Return the format of a file by `given` or its extension, and whether it is compressed by gzip."""
    name = path.lower()
    compressed = name.endswith(".gz")
    extension = Path(name.removesuffix(".gz")).suffix.removeprefix(".")
    if given is not None:
        wanted = str(given).lower().removeprefix(".")
        if wanted not in EXTENSIONS:
            raise InvalidOption(f"there is no format {given!r}", hint=f"the formats are {', '.join(FORMATS)}")
        return EXTENSIONS[wanted], compressed
    if extension not in EXTENSIONS:
        raise LoadError(
            f"the name of {path} does not tell its format",
            file=path,
            hint=f"give format= one of {', '.join(FORMATS)}",
        )
    return EXTENSIONS[extension], compressed


def open_text(path: str, *, compressed: bool) -> BinaryIO:
    """Open a text file. LoadError when it cannot be read."""
    try:
        if compressed:
            return cast("BinaryIO", gzip.open(path, "rb"))  # closed by the caller
        return Path(path).open("rb", buffering=1 << 18)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: OSError) -> LoadError:
    hint = {
        FileNotFoundError: f"the working directory is {os.getcwd()}",
        IsADirectoryError: "give the path of a file",
        PermissionError: "it is there, but you may not read it",
    }.get(type(error), "")
    return LoadError(f"cannot read {path}: {error.strerror or error}", file=path, hint=hint)


def understand(file: BinaryIO, path: str, format_: str, options: Options) -> Text:
    """Return how to read the text `file`. LoadError when it is evidently something else."""
    head = _head(file)
    for magic, real in _MAGIC.items():
        if head.startswith(magic):
            raise LoadError(f"{path} is a {real} file, not {format_}", file=path, hint=f"give format={real!r}")
    if format_ == "sor":
        return _sor(head, options)
    if b"\x00" in head:
        line = head.count(b"\n", 0, head.index(b"\x00")) + 1
        raise LoadError(
            f"{path} is no {format_} file: it has a NUL byte in line {line:,}",
            file=path,
            line=line,
            hint="is it a binary file, or UTF-16 text?",
        )
    return _ndjson(head, options) if format_ == "ndjson" else _delimited(head, path, format_, options)


def _head(file: BinaryIO) -> bytes:
    """The first lines, at least as many as inference looks at."""
    head = file.read(HEAD_BYTES)
    while head.count(b"\n") < LINES_FOR_INFERENCE and len(head) < HEAD_BYTES_MAX and (more := file.read(HEAD_BYTES)):
        head += more
    return head


def _sor(head: bytes, options: Options) -> Text:
    types = options.wanted.types
    odd = next((type_ for type_ in types or () if type_ not in SOR_TYPES.values()), None)
    if odd is not None:
        raise InvalidOption(f"a SoR column cannot be {type_name(odd)}", hint=f"use one of {', '.join(SOR_TYPES)}")
    sor = Sor(options.wanted.names, types, options.widen, options.null)
    return Text(sor, sor.infer(head))


def whole_lines(head: bytes) -> bytes:
    """`head` without the line that it cuts; all of it when it has no line end."""
    return head[: head.rfind(b"\n") + 1] or head


def _ndjson(head: bytes, options: Options) -> Text:
    wanted = options.wanted
    if (wanted.names is None) != (wanted.types is None):
        raise InvalidOption("schema= of NDJSON needs names and types", hint='give a mapping such as {"id": "INT"}')
    lines = Ndjson(None if wanted.types is None else wanted.schema(), options.widen)
    return Text(lines, lines.infer(whole_lines(head)))


def _delimited(head: bytes, path: str, format_: str, options: Options) -> Text:
    delimiter = "\t" if format_ == "tsv" else ","
    wanted = options.wanted
    if wanted.headless:
        assert wanted.names is not None
        names, given = wanted.names, wanted.types or (None,) * len(wanted.names)
        body, lines_before = len(_BOM) if head.startswith(_BOM) else 0, 0
    else:
        body, lines_before, header = _header(head, delimiter, path)
        names, given = tuple(header), _given(header, wanted, path)
    odd = next((type_ for type_ in given if type_ is not None and not is_readable(type_)), None)
    if odd is not None:
        raise InvalidOption(f"a {format_} column cannot be {type_name(odd)}", hint="load it as STRING; cast with SQL")
    lines = Delimited(names, given, delimiter, options.widen, options.null)
    schema = lines.infer(_whole_records(head[body:], delimiter) if len(head) >= HEAD_BYTES else head[body:])
    return Text(lines, schema, body, lines_before, delimiter)


def _whole_records(records: bytes, delimiter: str) -> bytes:
    """`records` without the last, which is cut; all when it is the only one."""
    return records[: Quotes(delimiter).last_end(records)] or records


def _header(head: bytes, delimiter: str, path: str) -> tuple[int, int, Sequence[str]]:
    """Return where the record of names ends, how many lines that is, and the names."""
    start = len(_BOM) if head.startswith(_BOM) else 0  # it is not part of the first name, whose quote may follow it
    size, record = first_record(head[start:], delimiter)
    end = start + size
    if not record:
        return end, line_ends(head[:end]), []
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        names = csv.read_csv(pa.BufferReader(record + b"\n"), parse_options=parse).schema.names
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = "it is not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise LoadError(f"line 1 of {path} names no columns: {reason}", file=path, line=1, hint=_NO_NAMES) from error
    return end, line_ends(head[:end]), names


def _given(header: Sequence[str], wanted: Wanted, path: str) -> tuple[pa.DataType | None, ...]:
    """The types that the caller fixed, in the order of the header."""
    if wanted.types is None:
        return (None,) * len(header)
    if wanted.names is None:
        if len(wanted.types) != len(header):
            raise LoadError(
                f"{path} has {len(header)} columns, schema= has {len(wanted.types)} types",
                file=path,
                line=1,
                hint="give a type a column, or a mapping of names to types",
            )
        return wanted.types
    for index, name in enumerate(wanted.names):
        if name not in header:
            raise LoadError(
                f"{path} has no column {name!r}: line 1 names {', '.join(header)[:200]}",
                file=path,
                line=1,
                column=index + 1,
                hint=_NO_NAMES,
            )
    types = dict(zip(wanted.names, wanted.types, strict=True))
    return tuple(types.get(name) for name in header)


def array_as_lines(file: BinaryIO, path: str) -> BinaryIO:
    """Return `file`, or when it is one JSON array its items, one a line. LoadError when that is damaged or large."""
    head = file.read(HEAD_BYTES).lstrip()
    file.seek(0)
    if not head.startswith(b"["):
        return file
    data = file.read(ARRAY_BYTES_MAX + 1)
    file.close()
    if len(data) > ARRAY_BYTES_MAX:
        raise LoadError(
            f"{path} is one JSON array of more than {ARRAY_BYTES_MAX >> 20} MiB",
            file=path,
            hint="write one object a line instead (.ndjson), which is read in pieces",
        )
    try:
        items = json.loads(data)
    except RecursionError as error:
        raise LoadError(f"{path} is nested too deeply", file=path) from error
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 0
        raise LoadError(f"{path} is no JSON: {error}", file=path, line=line) from error
    # Half a surrogate pair is no text: its line is then said to be bad.
    return io.BytesIO(
        b"".join(json.dumps(item, ensure_ascii=False).encode(errors="surrogatepass") + b"\n" for item in items)
    )
