"""What is under a key, described without reading all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.compute as pc
from rich.console import Group
from rich.text import Text

from eau2.cli.exits import printable
from eau2.cli.rows import as_json, column_bounds, preview
from eau2.cli.screen import counted, facts, grid, size_text, text_or_base64
from eau2.ingest.files import is_file
from eau2.store.expiry import bytes_of
from eau2.store.nodes import Kind
from eau2.values.manifest import Manifest
from eau2.values.schema import type_name

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console, RenderableType

    from eau2.cli.call import Call
    from eau2.frame.frame import Frame
    from eau2.query.source import Source
    from eau2.store.store import Store

COLUMNS_SHOWN_MAX = 60  # of a wide frame, on a screen; --json has all
_BOUND_WIDTH = 18


def described(store: Store, key: str) -> dict[str, object] | None:
    """Return key, kind, version, rows and bytes of `key` without touching its rows; None when nothing is there."""
    entry = store.node.get(key)
    if entry is None:
        return None
    if entry.kind != Kind.FRAME:
        kind, rows, size = "bytes", None, len(bytes_of(entry))
    else:
        manifest = Manifest.decode(entry.payload)
        kind, rows, size = "frame", manifest.rows, manifest.size
        if is_file(manifest.schema):
            file = store.get(key, default=b"")  # the manifest has the size of the chunks, with their framing
            kind, rows, size = "file", None, 0 if isinstance(file, bytes) else file_size(file)
    return {"key": key, "kind": kind, "version": entry.version, "rows": rows, "bytes": size}


def file_size(frame: Frame) -> int:
    """Return the bytes of the file that is stored as `frame`. Reads the lengths of its pieces, not the pieces."""
    return sum(pc.sum(pc.binary_length(batch.column(0))).as_py() for batch in frame.batches() if batch.num_rows)


def show_frame(call: Call, key: str, frame: Frame, *, rows: int) -> None:
    """Print what the frame is and its first `rows` rows."""
    source = frame.source
    assert source is not None  # what is under a key is stored
    manifest = source.manifest
    first = frame.head(rows).to_arrow() if rows else manifest.schema.empty_table()
    columns = _columns(manifest)
    document = {
        "key": key,
        "kind": "frame",
        "version": source.version,
        "rows": manifest.rows,
        "chunks": len(manifest.chunk_ids),
        "bytes": manifest.size,
        "columns": columns,
        "preview": list(as_json(first)) if call.json else [],
    }
    call.answer(document, lambda console: _frame_shown(console, source, columns, first))


def _columns(manifest: Manifest) -> list[dict[str, object]]:
    """Return name, type, nulls, min and max of each column: what the manifest knows, over all chunks."""
    known = manifest.table
    columns: list[dict[str, object]] = []
    for index, field in enumerate(manifest.schema):
        least, most = None, None
        if f"min:{index}" in known.column_names:
            least, most = column_bounds(known.column(f"min:{index}"), known.column(f"max:{index}"))
        nulls = sum(known.column(f"nulls:{index}").to_pylist())
        columns.append({"name": field.name, "type": type_name(field.type), "nulls": nulls, "min": least, "max": most})
    return columns


def _frame_shown(console: Console, source: Source, columns: list[dict[str, object]], first: pa.Table) -> RenderableType:
    manifest = source.manifest
    about = ", ".join(
        [
            counted(manifest.rows, "row"),
            counted(len(columns), "column"),
            counted(len(manifest.chunk_ids), "chunk"),
            size_text(manifest.size),
            f"version {source.version}",
        ]
    )
    parts: list[RenderableType] = [Text.assemble((printable(source.key), "bold"), f": {about}"), Text("")]
    parts += [_columns_shown(console, columns), Text("")]
    parts += rows_shown(console, first, manifest.rows)
    return Group(*parts)


def _columns_shown(console: Console, columns: list[dict[str, object]]) -> RenderableType:
    table = grid(console, "column", "type", "nulls", "least", "greatest", right=("nulls",))
    for column in columns[:COLUMNS_SHOWN_MAX]:
        table.add_row(
            Text(_short(column["name"], 30)),
            Text(_short(column["type"], 20), style="cyan"),
            f"{column['nulls']:,}",
            Text(_short(column["min"])),
            Text(_short(column["max"])),
        )
    if len(columns) <= COLUMNS_SHOWN_MAX:
        return table
    return Group(table, Text(f"... and {counted(len(columns) - COLUMNS_SHOWN_MAX, 'more column')}", style="dim"))


def _short(value: object, width: int = _BOUND_WIDTH) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = printable(f"{value:.10g}" if isinstance(value, float) else str(value))
    return text if len(text) <= width else text[: width - 1] + "…"


def rows_shown(console: Console, first: pa.Table, rows: int) -> list[RenderableType]:
    """Return the rows of `first`, the first of `rows`, and a line that says what is not shown."""
    parts: list[RenderableType] = []
    notes: list[str] = []
    if first.num_columns and first.num_rows:
        table, fitted = preview(console, first)
        parts.append(table)
        left = first.schema.names[fitted:]
        if left:
            names = ", ".join(map(printable, left[:5])) + (", ..." if len(left) > 5 else "")
            notes.append(f"{counted(len(left), 'more column')}: {names}")
    shown = f"the first {first.num_rows:,} of " if 0 < first.num_rows < rows else ""
    notes.insert(0, shown + counted(rows, "row"))
    return [*parts, Text("; ".join(notes), style="dim", overflow="fold")]


def show_whole(call: Call, key: str, version: int, kind: str, size: int, begin: bytes) -> None:
    """Print what a value is that is bytes or a file: `begin` is its beginning."""
    document: dict[str, object] = {"key": key, "kind": kind, "version": version, "bytes": size}
    text = begin.decode("utf-8", "backslashreplace")
    pairs = [("kind", kind), ("size", counted(size, "byte")), ("version", f"{version}")]
    pairs += [("begins with", text)] if begin else []
    call.answer(
        document | {"begin": text_or_base64(begin)},
        lambda _: Group(Text(printable(key), style="bold"), facts(pairs)),
    )
