"""How frames look: in a terminal, in a notebook, and explained."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from eau2.query.engine import Reading

WIDTH_MAX = 120  # characters of a line
CELL_WIDTH_MAX = 32
COLUMNS_MAX = 24  # in a notebook
HTML_CELL_MAX = 400  # characters
NODES_MAX = 16  # of which is said what each reads


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a query reads and does. Its text is `str(explanation)`."""

    readings: tuple[Reading, ...]  # a table each
    plan: str  # of the engine
    moves: str = ""  # what runs on which nodes, and what moves; "" where all runs in this process

    @property
    def chunks(self) -> int:
        """Chunks of all tables of the query."""
        return sum(reading.chunks for reading in self.readings)

    @property
    def chunks_read(self) -> int:
        """Those that are read; the rest can hold no row of the answer."""
        return sum(reading.chunks_read for reading in self.readings)

    def __repr__(self) -> str:
        lines = []
        for each in self.readings:
            amount = f"{counted(each.rows, 'row')}, {size_text(each.bytes)}"
            lines.append(f"{each.title}: reads {each.chunks_read:,} of {counted(each.chunks, 'chunk')}, {amount}")
            for share in each.nodes[:NODES_MAX]:
                amount = f"{counted(share.rows, 'row')}, {size_text(share.bytes)}"
                lines.append(f"  {share.node}: {counted(share.chunks, 'chunk')}, {amount}")
            if len(each.nodes) > NODES_MAX:
                lines.append(f"  and {counted(len(each.nodes) - NODES_MAX, 'node')} more")
        return "\n".join([*lines, *([self.moves] if self.moves else ()), self.plan])


def counted(count: int, what: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "chunk"), counted(1200, "row")
    ('1 chunk', '1,200 rows')
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def size_text(size: int) -> str:
    """Return bytes as people read them.

    >>> size_text(999), size_text(64 << 20)
    ('999 B', '67.1 MB')
    """
    if size < 1000:
        return f"{size} B"
    power = min(4, (len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def text_table(rows: pa.Table, schema: pa.Schema) -> str:
    """Return `rows` laid out under the names and types of `schema`; columns that do not fit are counted."""
    if not len(schema):
        return ""
    columns = [
        [field.name, type_text(field.type), *(cell(value) for value in python_values(rows.column(index)))]
        for index, field in enumerate(schema)
    ]
    right = [is_number(field.type) for field in schema]
    shown, used = 0, 0
    widths = [min(CELL_WIDTH_MAX, max(len(line(each)) for each in column)) for column in columns]
    for width in widths:
        if shown and used + width + 2 > WIDTH_MAX:
            break
        shown, used = shown + 1, used + width + 2
    lines = []
    for number in range(rows.num_rows + 2):
        cells = []
        for column, width, at_right in zip(columns[:shown], widths, right, strict=False):
            text = line(column[number])
            cells.append(text.rjust(width) if at_right else text.ljust(width))
        lines.append("  ".join(cells).rstrip())
    if shown < len(columns):
        lines.append(
            f"and {counted(len(columns) - shown, 'column')} more: {', '.join(schema.names[shown:])}"[:WIDTH_MAX]
        )
    return "\n".join(lines)


def html_table(rows: pa.Table, schema: pa.Schema, caption: str) -> str:
    """Return `rows` as an HTML table; everything in it is escaped."""
    fields = list(schema)[:COLUMNS_MAX]
    head = "".join(
        f"<th>{html.escape(field.name)}<br><small>{html.escape(type_text(field.type))}</small></th>" for field in fields
    )
    body, values = [], [python_values(column) for column in rows.columns[:COLUMNS_MAX]]
    for number in range(rows.num_rows):
        cells = []
        for index, field in enumerate(fields):
            align = "right" if is_number(field.type) else "left"
            text = cell(values[index][number])
            text = text if len(text) <= HTML_CELL_MAX else f"{text[: HTML_CELL_MAX - 1]}…"
            cells.append(f'<td style="text-align:{align}">{html.escape(text)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    more = len(schema) - len(fields)
    note = f"<p><small>and {counted(more, 'column')} more</small></p>" if more > 0 else ""
    return (
        f"<div><p>{html.escape(caption)}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>{note}</div>"
    )


def python_values(column: pa.ChunkedArray) -> list[object]:
    """Return the values of `column`; what Python has no value for as text: years of five digits, zones it lacks."""
    try:
        found: list[object] = column.to_pylist()
        return found
    except (OverflowError, ValueError):  # ArrowInvalid is one
        return [_text_of(value) for value in column]


def _text_of(value: pa.Scalar) -> object:
    try:
        found: object = value.as_py()
        return found
    except (OverflowError, ValueError):
        return f"<{getattr(value, 'value', value.type)} as {value.type}>"


def schema_text(schema: pa.Schema) -> str:
    """Return the columns on one line."""
    names = ", ".join(f"{field.name} {type_text(field.type)}" for field in schema)
    return names if len(names) <= WIDTH_MAX else names[: WIDTH_MAX - 3] + "..."


def type_text(type_: pa.DataType) -> str:
    return line(str(type_))


def is_number(type_: pa.DataType) -> bool:
    text = str(type_)
    return text.startswith(("int", "uint", "float", "double", "half", "decimal"))


def cell(value: object) -> str:
    """Return one value as text; missing ones are a dot."""
    if value is None:
        return "·"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return repr(value[:CELL_WIDTH_MAX])
    return str(value)


def line(text: str) -> str:
    """Return `text` on one line of at most CELL_WIDTH_MAX characters."""
    flat = " ".join(text.split()) if any(mark in text for mark in "\n\r\t") else text
    if not flat.isprintable():  # such as what steers a terminal
        flat = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in flat[: CELL_WIDTH_MAX + 1])
    return flat if len(flat) <= CELL_WIDTH_MAX else flat[: CELL_WIDTH_MAX - 1] + "…"
