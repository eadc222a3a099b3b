"""load, show and sql: files into frames, what a frame is, and questions."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pyarrow as pa
import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.exits import printable
from eau2.cli.screen import counted, grid, is_piped, screen, seconds_text, size_text
from eau2.cli.values import KeyArgument
from eau2.errors import InvalidOption
from eau2.ingest.files import is_file

if TYPE_CHECKING:
    from eau2.frame.frame import Frame
    from eau2.ingest.report import LoadReport

ROWS_SHOWN = 20
RATE_BYTES_MIN = 1 << 20  # below, a rate says how long starting took
COLUMNS_SHOWN_MAX = 50
REJECT_TEXT_MAX = 40
REJECTS_SHOWN_MAX = 10  # of the report's hundred; --json has those, --rejects all
_BEGIN_BYTES = 200


def load(
    call: Call,
    key: KeyArgument,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The file to read.", show_default=False)],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="sor, csv, tsv, parquet, arrow, ndjson; by the extension otherwise."
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(metavar="COLUMNS", help="Names, types or both: 'id,name', 'INT,STRING', 'id:INT,name:STRING'."),
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="With names and types: the file has no line of names.")
    ] = False,
    on_error: Annotated[
        Literal["report", "null", "fail"],
        typer.Option(
            "--on-error",
            metavar="WAY",
            help="Bad lines: report (left out, counted), null (their cells are missing) or fail.",
        ),
    ] = "report",
    rejects: Annotated[str | None, typer.Option(metavar="PATH", help="Write every bad line to this file.")] = None,
    no_widen: Annotated[
        bool, typer.Option("--no-widen", help="A value that its column's type cannot hold makes its line bad.")
    ] = False,
    from_: Annotated[
        int | None, typer.Option("--from", metavar="BYTE", help="Only lines that start at or after.")
    ] = None,
    to: Annotated[int | None, typer.Option("--to", metavar="BYTE", help="Only lines that start before.")] = None,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="A bar; on a terminal after a second otherwise.")
    ] = None,
) -> None:
    """Read a file as a frame.

    Prints the account: lines = rows + blank + bad. Nothing is left out silently.
    """
    with call.making() as store:
        begun = time.monotonic()
        report = store.load(
            key,
            path,
            format=format_,
            schema=schema_of(schema, no_header=no_header),
            on_error=on_error,
            rejects=rejects,
            widen=not no_widen,
            byte_range=_byte_range(path, from_, to),
            progress=False if call.json and progress is None else progress,
        )
        seconds = time.monotonic() - begun
        size = store.frame(key).bytes or 0
    call.answer(report.to_dict(), lambda console: _account(console, report, size, seconds))


def schema_of(text: str | None, *, no_header: bool) -> object:
    """Return what `Store.load` takes as schema=.

    >>> schema_of("id:INT, name:STRING", no_header=False), schema_of("id,name", no_header=False)
    ({'id': 'INT', 'name': 'STRING'}, ['id', 'name'])
    """
    if text is None:
        if no_header:
            raise InvalidOption("--no-header needs --schema with names and types")
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InvalidOption(f"--schema {text!r} has an empty column", hint="for example --schema id:INT,name:STRING")
    if not any(":" in part for part in parts):
        return parts
    pairs = [(name.strip(), kind.strip()) for name, _, kind in (part.rpartition(":") for part in parts)]
    if not all(name and kind for name, kind in pairs):
        raise InvalidOption(
            f"--schema {text!r} gives some columns a name and a type, others not both", hint="give both for all"
        )
    return pairs if no_header or len(dict(pairs)) < len(pairs) else dict(pairs)


def _byte_range(path: str, start: int | None, end: int | None) -> tuple[int, int] | None:
    if start is None and end is None:
        return None
    if (start or 0) < 0 or (end is not None and end < (start or 0)):
        raise InvalidOption(f"--from {start or 0} --to {end} is no range of bytes", hint="0 <= FROM <= TO")
    if end is None:
        end = max(Path(path).stat().st_size, start or 0) if Path(path).is_file() else sys.maxsize
    return start or 0, end


def _account(console: Console, report: "LoadReport", size: int, seconds: float) -> RenderableType:
    rows = counted(report.rows, "row")
    rate = f", {size_text(report.bytes / seconds)}/s" if report.bytes >= RATE_BYTES_MIN else ""
    head = f": {rows} from {report.file}, stored as {size_text(size)}, {seconds_text(seconds)}{rate}"
    sum_ = Text(f"{counted(report.lines, 'line')} = {rows} + {report.blank:,} blank + ")
    sum_.append(f"{report.bad:,} bad", style="bold yellow" if report.bad else "")
    if report.nulled:
        sum_.append(f"; {counted(report.nulled, 'cell')} made missing", style="yellow")
    parts: list[RenderableType] = [Text.assemble((printable(report.key), "bold"), printable(head)), sum_]
    parts.append(_columns(report.columns))
    if report.widened:
        table = grid(console, "widened", "from", "to", "at line", right=("at line",))
        for wide in report.widened:
            table.add_row(Text(printable(wide.column)), wide.old or "(new)", wide.new, f"{wide.line:,}")
        parts += [Text(""), table]
    if report.rejects:
        table = grid(console, "bad line", "column", "reason", "text", right=("bad line", "column"))
        for bad in report.rejects[:REJECTS_SHOWN_MAX]:
            text = printable(bad.text[:REJECT_TEXT_MAX]) + ("…" if len(bad.text) > REJECT_TEXT_MAX else "")
            table.add_row(f"{bad.line:,}", f"{bad.column:,}", Text(printable(bad.reason)), Text(text, style="dim"))
        parts += [Text(""), table]
        if report.bad + report.nulled > REJECTS_SHOWN_MAX:
            more = f"the first {REJECTS_SHOWN_MAX} of {report.bad + report.nulled:,}; --rejects PATH keeps all"
            parts.append(Text(more, style="dim"))
    return Group(*parts)


def _columns(columns: "tuple[tuple[str, str], ...]") -> RenderableType:
    """Return the columns' names and types as one paragraph: a wide file has hundreds."""
    text = Text("columns: " if columns else "no columns")
    for index, (name, kind) in enumerate(columns[:COLUMNS_SHOWN_MAX]):
        text.append(", " if index else "")
        text.append(printable(name) + " ")
        text.append(kind, style="cyan")
    if len(columns) > COLUMNS_SHOWN_MAX:
        text.append(f", and {len(columns) - COLUMNS_SHOWN_MAX:,} more")
    return text


def show(
    call: Call,
    key: KeyArgument,
    rows: Annotated[int, typer.Option("--rows", "-n", metavar="N", help="How many rows to show.", min=0)] = 10,
) -> None:
    """Describe a key: schema, sizes, statistics, first rows."""
    from eau2.cli.description import file_size, show_frame, show_whole  # with Arrow's kernels: `eau2 keys` does without

    with call.reading() as store:
        value = store.get(key)
        if isinstance(value, bytes):
            show_whole(call, key, store.version(key), "bytes", len(value), value[:_BEGIN_BYTES])
        elif is_file(value.schema):
            begin = b"".join(batch.column(0)[0].as_py()[:_BEGIN_BYTES] for batch in _first(value))
            show_whole(call, key, value.version or 0, "file", file_size(value), begin)
        else:
            show_frame(call, key, value, rows=rows)


def _first(frame: "Frame") -> list[pa.RecordBatch]:
    for batch in frame.batches():
        if batch.num_rows:
            return [batch]
    return []


def sql(
    call: Call,
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="The question; - reads it from standard input.", show_default=False)
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="PATH", help="Write all rows to this file; - is standard output."),
    ] = None,
    format_: Annotated[
        Literal["table", "csv", "json", "ndjson", "parquet", "arrow"] | None,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="table, csv, json, ndjson, parquet or arrow; else by the extension of --output.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", "-n", metavar="N", help="How many rows a table shows.", min=0)
    ] = ROWS_SHOWN,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print how the query would run, and do not run it.")
    ] = False,
) -> None:
    """Ask a question in SQL.

    Keys are table names; those with / or blanks go in double quotes. A result larger than memory goes to a file.
    """
    from eau2.cli.output import format_of  # with Arrow's kernels: `eau2 keys` does without

    to_file = output not in (None, "-")
    chosen = format_ or (format_of(output) if to_file and output else "json" if call.json else "table")
    if chosen == "table" and to_file:
        raise InvalidOption(
            "a table is for the screen, not for --output", hint="write csv, json, ndjson, parquet or arrow"
        )
    if chosen in ("parquet", "arrow") and not to_file and not is_piped():
        raise InvalidOption(f"{chosen} is not for a terminal", hint=f"add -o FILE.{chosen}, or a pipe")
    text = sys.stdin.read() if query == "-" else query
    with call.reading() as store:
        frame = store.sql(text)
        if explain:
            plan = str(frame.explain())
            call.answer({"plan": plan}, lambda _: Text(plan))
        elif chosen == "table":
            _show_rows(frame, rows)
        else:
            _write(call, frame, output if to_file else None, chosen)


def _show_rows(frame: "Frame", rows_max: int) -> None:
    """Print the first rows of the answer, and how many there are: all of it is computed, little is held."""
    from eau2.cli.description import rows_shown  # with Arrow's kernels: `eau2 keys` does without
    from eau2.cli.rows import table_of

    schema, kept, rows, begun = frame.schema, [], 0, time.monotonic()
    for batch in frame.batches():
        if rows < rows_max:
            kept.append(batch.slice(0, rows_max - rows))
        rows += batch.num_rows
    seconds = time.monotonic() - begun
    console = screen()
    first = table_of(kept, schema)
    *table, note = rows_shown(console, first, rows)
    assert isinstance(note, Text)
    note.append(f"; {seconds_text(seconds)}")
    console.print(Group(*table, note))


def _write(call: Call, frame: "Frame", target: str | None, format_: str) -> None:
    from eau2.cli.output import write_rows  # with Arrow's kernels: `eau2 keys` does without

    begun = time.monotonic()
    rows, size = write_rows(target, format_, frame.schema, frame.batches())
    if target is None:
        return
    seconds = time.monotonic() - begun
    document = {"path": target, "format": format_, "rows": rows, "bytes": size, "seconds": round(seconds, 3)}
    words = f"{target}: {counted(rows, 'row')}, {size_text(size)} of {format_}, {seconds_text(seconds)}"
    call.answer(document, lambda _: Text(printable(words)))
