"""How things look on a terminal, and plainly in a pipe."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eau2.cli.exits import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CELL_WIDTHS = range(72, 13, -2)  # tried in turn until all columns fit; then some are left out
_KIND_WIDTH_MAX = 12  # a long type is cut rather than its column widened
_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_SEPARATION = 2


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1 by itself


def screen() -> Console:
    """Return standard output as a console. NO_COLOR and COLUMNS are respected; a pipe gets plain text."""
    return _Screen(highlight=False, markup=False, emoji=False)


def size_text(size: float) -> str:
    """Return a size in bytes as people read it.

    >>> size_text(999), size_text(1_234_567), size_text(20_000_000_000)
    ('999 B', '1.23 MB', '20.0 GB')
    """
    for unit, name in _UNITS:
        if size >= unit:
            number = size / unit
            return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {name}"
    return f"{size:.0f} B"


def seconds_text(seconds: float) -> str:
    """
    >>> seconds_text(0.000_085), seconds_text(0.0123), seconds_text(1.5), seconds_text(100)
    ('85 µs', '12 ms', '1.50 s', '100 s')
    """
    if seconds < 0.0005:  # which would be 0 ms
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def counted(count: int, noun: str) -> str:
    """
    >>> counted(1, "key"), counted(1200, "key")
    ('1 key', '1,200 keys')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _padding(console: Console) -> tuple[int, int, int, int]:
    """Return what makes _SEPARATION blanks between columns: the lines of a terminal's table bring one."""
    return 0, _SEPARATION - int(console.is_terminal), 0, 0


def grid(console: Console, *columns: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table with these headers; those in `right` are aligned right. No lines in a pipe."""
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        pad_edge=False,
        padding=_padding(console),
        header_style="bold",
        show_edge=False,
    )
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Return names and values, one pair a line."""
    table = Table.grid(padding=(0, _SEPARATION, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name), Text(printable(value)))
    return table


def rows_table(
    console: Console,
    names: Sequence[str],
    kinds: Sequence[str],
    right: Sequence[bool],
    rows: Sequence[Sequence[str | None]],
) -> tuple[Table, int]:
    """Return a table of `rows` that fits the console, and how many of the columns it has (from the first).

    None is shown as a dim "null"; long cells end in an ellipsis.
    """
    cells = [[None if cell is None else printable(cell) for cell in row] for row in rows]
    heads = [printable(name) for name in names]
    natural = [
        max(
            cell_len(heads[index]),
            min(cell_len(kinds[index]), _KIND_WIDTH_MAX),
            *(4 if row[index] is None else cell_len(row[index] or "") for row in cells),
            1,
        )
        for index in range(len(names))
    ]
    widths, shown = _fitted(natural, console.width)
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        pad_edge=False,
        padding=_padding(console),
        show_edge=False,
    )
    for index in range(shown):
        head = Text(_cut(heads[index], widths[index]), style="bold")
        head.append("\n" + _cut(kinds[index], widths[index]), style="not bold dim")
        table.add_column(head, justify="right" if right[index] else "left", no_wrap=True, min_width=1)
    for row in cells:
        table.add_row(*(_shown_cell(row[index], widths[index]) for index in range(shown)))
    return table, shown


def _fitted(natural: Sequence[int], width: int) -> tuple[list[int], int]:
    """Return the width of each column and how many of them fit `width`."""
    widths: list[int] = []
    for most in CELL_WIDTHS:
        widths = [min(size, most) for size in natural]
        if sum(widths) + _SEPARATION * len(widths) <= width:
            return widths, len(widths)
    used = 0
    for index, size in enumerate(widths):
        used += size + _SEPARATION
        if used > width:
            return widths, max(index, 1)
    return widths, len(widths)


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _shown_cell(cell: str | None, width: int) -> Text:
    return Text("null", style="dim") if cell is None else Text(_cut(cell, width))


def is_piped() -> bool:
    """Whether standard output is not a terminal."""
    return not sys.stdout.isatty()


def text_or_base64(value: bytes) -> dict[str, str | None]:
    """
    >>> text_or_base64(b"ok"), text_or_base64(bytes([255]))
    ({'text': 'ok', 'base64': None}, {'text': None, 'base64': '/w=='})
    """
    try:
        return {"text": value.decode(), "base64": None}
    except UnicodeDecodeError:
        return {"text": None, "base64": base64.b64encode(value).decode()}
