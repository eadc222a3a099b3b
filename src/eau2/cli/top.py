"""top: what the page shows of nodes, in a terminal."""

import json
import time
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.screen import counted, grid, screen, seconds_text, size_text
from eau2.errors import InvalidOption
from eau2.monitor.documents import Document, encoded, overview
from eau2.monitor.history import History
from eau2.monitor.sight import Sight

INTERVAL_SECONDS_MIN = 0.2
_OWN = "ops/s are those of this command; of a server's: --store eau2://HOST"
_LINES_AROUND = 7  # of a screen, above and below the rows of the table
_WORST_FIRST = ("dead", "suspected", "returning", "joining", "leaving", "live", "left")
_STYLES = {"live": "green", "dead": "bold red", "suspected": "bold yellow"}
_COLUMNS = (
    ("operations", "ops/s"),
    ("latency_p50", "p50"),
    ("latency_p99", "p99"),
    ("load", "load"),
    ("memory", "memory"),
    ("stored", "stored"),
    ("disk_free", "disk free"),
    ("chunks", "chunks"),
    ("keys", "keys"),
    ("missing", "missing"),
)
_LEAST_FIRST = (
    *("disk_free", "load", "memory", "chunks", "latency_p50", "stored", "keys", "latency_p99", "operations", "missing"),
)  # what is left out where the terminal is narrow
_SIZES = frozenset({"memory", "stored", "disk_free"})
_TIMES = frozenset({"latency_p50", "latency_p99"})


def top(
    call: Call,
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", help="The time between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, print that, and end.")] = False,
) -> None:
    """Show the nodes of a store, with their figures, until Ctrl-C; what wants looking at comes first.

    In a pipe, and with --json, once.
    """
    if not interval >= INTERVAL_SECONDS_MIN:
        raise InvalidOption(f"--interval is at least {INTERVAL_SECONDS_MIN:g} seconds, not {interval:g}")
    console = screen()
    with call.reading() as store:
        history, sight = History(), Sight(store)

        def look() -> Document:
            seen = sight.look()
            history.note(seen.time, (*seen.reports, seen.server))
            found: Document = json.loads(encoded(overview(seen, history, store.tables.queries.totals())))
            return found

        look()  # what grows is known from the second look on
        time.sleep(interval)
        if once or call.json or not console.is_terminal:
            document = look()
            call.answer(document, lambda console: _shown(document, call.store_path, console, rows_max=None))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                rows_max = max(1, console.size.height - _LINES_AROUND)
                live.update(_shown(look(), call.store_path, console, rows_max=rows_max), refresh=True)
                time.sleep(interval)


# -- private ----------------------------------------------------------------------------------------------------------


def _shown(document: Document, store: str, console: Console, *, rows_max: int | None) -> RenderableType:
    nodes = sorted(document["nodes"], key=lambda node: _WORST_FIRST.index(node["state"]))
    live, totals, repair = sum(node["state"] == "live" for node in nodes), document["totals"], document["repair"]
    size = size_text(totals.get("chunk_bytes", 0) + totals.get("value_bytes", 0))
    sums = f"{live} of {counted(len(nodes), 'node')} live, {counted(int(totals.get('keys', 0)), 'key')}, {size}"
    missing = int(repair["missing"])
    copies = "all copies there" if not missing else f"{missing:,} copies missing, {int(repair['copied']):,} repaired"
    head = Text(f"{store}: {sums}, {copies}", style="" if not missing and live == len(nodes) else "bold")
    left = len(nodes) - (rows_max or len(nodes))
    more = [Text(f"and {counted(left, 'node')} more")] if left > 0 else []
    whose = [Text(_OWN, style="dim")] if document["counted_here"] else []
    return Group(head, Text(""), _table(document, nodes[:rows_max], console), *more, *whose)


def _table(document: Document, nodes: list[Document], console: Console) -> Table:
    at = {name: index for index, name in enumerate(document["figures"])}
    columns = [
        (name, title)
        for name, title in _COLUMNS
        if any(node["values"] and node["values"][at[name]] is not None for node in nodes)
    ]
    cells = {
        name: ["" if not node["values"] else _text(name, node["values"][at[name]]) for node in nodes]
        for name, _ in columns
    }
    columns = _fitting(columns, cells, nodes, console)
    table = grid(console, "node", "state", *(title for _, title in columns), right=[title for _, title in columns])
    for row, node in enumerate(nodes):
        state = node["state"]
        shown = [Text(cells[name][row]) for name, _ in columns]
        table.add_row(Text(node["name"]), Text(state, style=_STYLES.get(state, "")), *shown)
    return table


def _fitting(
    columns: list[tuple[str, str]], cells: dict[str, list[str]], nodes: list[Document], console: Console
) -> list[tuple[str, str]]:
    """Return those of `columns` for which there is room: squeezed into a few characters each nobody reads them."""
    room = console.width - sum(max(map(len, ("state", *(node[name] for node in nodes)))) for name in ("name", "state"))
    widths = {name: 2 + max(map(len, (title, *cells[name]))) for name, title in columns}
    gone: set[str] = set()
    for name in _LEAST_FIRST:
        if sum(width for column, width in widths.items() if column not in gone) + 2 > room:
            gone.add(name)
    return [(name, title) for name, title in columns if name not in gone]


def _text(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in _SIZES:
        return size_text(value)
    if name in _TIMES:
        return seconds_text(value)
    return f"{value:,.2f}" if name == "load" else f"{value:,.0f}"
