"""The tour on one screen: about 80 columns and 45 lines, in colour on a terminal and plain in a pipe."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import eau2
from eau2.cli.screen import seconds_text, size_text
from eau2.demo.data import LINUS

if TYPE_CHECKING:
    from rich.console import Console

    from eau2.demo.tour import Answered, Tour

_HEADING = "bold cyan"
_BAR = 40  # columns of the bars of the degrees


def show(console: Console, tour: Tour) -> None:
    """Print what `python -m eau2.demo` shows."""
    console.print(_title(tour))
    for heading, body in (
        (f"Load: SoR files into {_shown(tour.folder / 'store')}", _loads(console, tour)),
        (f"Count words: {tour.paths.text.name}, {_rate(tour.words_bytes, tour.words_seconds)}", _words(tour)),
        (f"Linus: whom torvalds reaches, {seconds_text(tour.degrees_seconds)}", _degrees(console, tour)),
        ("SQL (the first loads the engine)", _answers(tour.answered)),
        ("A second process, meanwhile", _neighbour(tour)),
    ):
        console.print(Text("\n" + heading, style=_HEADING), Padding(body, (0, 0, 0, 2), expand=False), sep="\n")
    console.print(Text("\nNow you", style=_HEADING))
    for line in _next(tour):
        console.print(line, soft_wrap=True)  # a long path stays in one piece, to be copied


def _title(tour: Tour) -> RenderableType:
    made = f"made in {seconds_text(tour.data_seconds)}" if tour.paths.made else "there from before"
    return Text.assemble(
        (f"eau2 {eau2.__version__}", "bold"),
        f"  GitHub-like data ({made}); all of this in {seconds_text(tour.seconds)}",
    )


def _loads(console: Console, tour: Tour) -> RenderableType:
    table = _table(console, "frame", "rows", "file", "stored", "time", "rate", right=range(1, 6))
    for loaded in tour.loaded:
        report = loaded.report
        table.add_row(
            report.key,
            f"{report.rows:,}",
            size_text(report.bytes),
            size_text(loaded.stored_bytes),
            seconds_text(report.seconds),
            f"{size_text(report.bytes / report.seconds)}/s",
        )
    return Group(table, *(Text(note, style="yellow") for loaded in tour.loaded for note in _widened(loaded.report)))


def _widened(report: eau2.LoadReport) -> list[str]:
    if not report.widened:
        return []
    first = report.widened[0]
    columns = ", ".join(widened.column for widened in report.widened)
    return [f"{columns}: first lines {first.old}, {first.new} from line {first.line:,} on; no row lost"]


def _words(tour: Tour) -> RenderableType:
    top = ", ".join(f"{word} {count:,}" for word, count in tour.words.top(3))
    return Text(f"{tour.words.words:,} words, {tour.words.distinct:,} different: {top} ...")


def _degrees(console: Console, tour: Tour) -> RenderableType:
    found = tour.degrees
    table = _table(console, "degree", "projects", "users", "of all", "", right=range(4))
    for row in found.degrees:
        share = row.users / max(found.users, 1)
        filled = max(1, round(share * _BAR))
        track = "━" * (_BAR - filled) if console.is_terminal and not console.no_color else ""
        bar = Text.assemble(("━" * filled, "green"), (track, "bright_black"))
        table.add_row(str(row.degree), f"{row.projects:,}", f"{row.users:,}", f"{share:.1%}", bar)
    return table


def _answers(answered: list[Answered]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for answer in answered:
        table.add_row(seconds_text(answer.seconds), Text(answer.question))
        table.add_row("", Text(", ".join(map(_sentence, answer.rows)), style="green"))
    return table


def _sentence(row: dict[str, object]) -> str:
    """Return a row as people say it: a name with its number, or numbers with their columns' names.

    >>> _sentence({"name": "a/b", "authors": 1200}), _sentence({"on_one": 3, "on_two": 1200})
    ('a/b 1,200', '3 on one, 1,200 on two')
    """
    numbers = {name: f"{value:,}" for name, value in row.items() if isinstance(value, int)}
    texts = [str(value) for value in row.values() if isinstance(value, str)]
    if texts:
        return " ".join([*texts, *numbers.values()])
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in numbers.items())


def _neighbour(tour: Tour) -> RenderableType:
    sight = tour.sight
    lines = [
        f"{_ms(sight.open_seconds)} to open the store, {_ms(sight.frame_seconds)} to have commits,"
        f" {_ms(sight.sum_seconds)} to add a column up"
    ]
    if sight.mapped_bytes:
        lines.append(
            f"{size_text(sight.mapped_bytes)} of the frame in its memory,"
            f" {size_text(sight.shared_bytes)} of it shared with us: no copy"
        )
    return Text("\n".join(lines))


def _next(tour: Tour) -> list[Text]:
    store = tour.folder / "store"
    commands = [
        f"export EAU2_STORE={_shown(store)}",
        "eau2 show commits",
        "eau2 sql \"select * from users where login = 'torvalds'\"",
        f"eau2 linus users projects commits --user {LINUS} --degrees 7",
        f"eau2 wordcount {_shown(tour.paths.text)} --top 5",
    ]
    python = [
        f"import eau2; store = eau2.open({str(store)!r})",
        'store.frame("commits")  # .to_pandas() .to_polars() .to_arrow() .batches()',
    ]
    lines = [("  $ ", command) for command in commands] + [("  >>> ", line) for line in python]
    return [Text.assemble((prompt, "dim"), (line, "bold")) for prompt, line in lines]


def _table(console: Console, *columns: str, right: range | tuple[int, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", show_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index in right else "left", no_wrap=True)
    return table


def _rate(size: int, seconds: float) -> str:
    return f"{size_text(size)} in {seconds_text(seconds)}, {size_text(size / seconds)}/s"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _shown(path: os.PathLike[str]) -> str:
    return shlex.quote(os.fspath(path))
