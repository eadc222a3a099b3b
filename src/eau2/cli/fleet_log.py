"""What was run on the nodes of a cluster, as `eau2 exec --list` and `--show` print it."""

from __future__ import annotations

import dataclasses
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from eau2.cli.exits import printable
from eau2.cli.screen import grid
from eau2.errors import Eau2Error, InvalidOption
from eau2.fleet.kept import left_out
from eau2.fleet.lines import Lines
from eau2.fleet.run import Ended, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from eau2.cli.call import Call
    from eau2.fleet.any_fleet import AnyFleet, Audited, Written
    from eau2.fleet.journal import Record
    from eau2.fleet.kept import Piece
    from eau2.fleet.refusals import Refusal
    from eau2.fleet.run import Stream

_SHORT = 8  # last characters of an id, which a list shows
_SEARCHED = 1_000  # runs, for one of which only those are given


def outcome(ended: Ended) -> str:
    """Return what came of a run on a node, as one reads it.

    >>> outcome(Ended("a", "ended", -15)), outcome(Ended("a", "lost", why="a does not answer"))
    ('ended by signal 15', 'lost: a does not answer')
    """
    if ended.state == "ended" and ended.code is not None:
        said = f"ended by signal {-ended.code}" if ended.code < 0 else f"ended with {ended.code}"
    else:
        said = {"deadline": "ended at the deadline"}.get(ended.state, ended.state)
    return f"{said}: {printable(ended.why)}" if ended.why else said


# -- the list ----------------------------------------------------------------------------------------------------------


def listed(call: Call, fleet: AnyFleet, rows: int) -> None:
    """Print the `rows` newest runs, and as many of the attempts that were refused."""
    found, refused = fleet.audit(rows), fleet.refusals(rows)
    documents = [_document(one) for one in found] + [_refused(one) for one in refused]
    documents.sort(key=lambda one: str(one["id"]), reverse=True)
    call.answer(documents, lambda console: _table(console, found, refused))


def _document(audited: Audited) -> dict[str, object]:
    record = audited.record
    known = {"id", "time", "user", "host", "kind", "text", "sha256"}
    document = {name: value for name, value in dataclasses.asdict(record).items() if name in known}
    on = [
        {"node": name, "state": one.state, "code": one.code, "seconds": one.seconds, "why": one.why}
        for name, one in sorted(audited.on.items())
    ]
    return document | {"asked": record.nodes, "nodes": on, "refused": ""}


def _refused(one: Refusal) -> dict[str, object]:
    said = dataclasses.asdict(one)
    return {"refused": said.pop("why"), **said, "sha256": "", "asked": 0, "nodes": []}


def _table(console: Console, found: Sequence[Audited], refused: Sequence[Refusal]) -> RenderableType:
    table = grid(console, "when", "who", "what", "nodes", "came of it", "run", right=("nodes",))
    rows = {one.record.id: _row(one) for one in found} | {one.id: _refused_row(one) for one in refused}
    for run_id in sorted(rows, reverse=True):
        table.add_row(*rows[run_id])
    return table if rows else Group(Text("nothing was run on these nodes"))


def _row(one: Audited) -> tuple[str | Text, ...]:
    record = one.record
    what = record.text if record.kind != "script" else f"{record.text} (sha256 {record.sha256[:12]})"
    is_good = all(each.state == "ended" and each.code == 0 for each in one.on.values())
    return (
        _when(record.time),
        Text(printable(f"{record.user}@{record.host}")),
        Text(printable(what)),
        f"{len(one.on)}/{record.nodes}",
        Text(_together(one), style="green" if is_good else "yellow"),
        record.id[-_SHORT:],
    )


def _refused_row(one: Refusal) -> tuple[str | Text, ...]:
    said = Text(printable(f"refused: {one.why}"), style="yellow")
    return _when(one.time), Text(printable(f"{one.user}@{one.host}")), Text(printable(one.text)), "0", said, ""


def _when(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _together(audited: Audited) -> str:
    """Return what came of a run on all nodes that have begun it: each outcome with the nodes that had it."""
    nodes: dict[str, list[str]] = {}
    for name, one in sorted(audited.on.items()):
        nodes.setdefault(_state(name, one), []).append(name)
    if len(nodes) == 1:
        return next(iter(nodes))
    return "; ".join(f"{', '.join(names)} {said}" for said, names in nodes.items())


def _state(name: str, record: Record) -> str:
    return "runs" if record.state is None else outcome(Ended(name, record.state, record.code))


# -- one run -----------------------------------------------------------------------------------------------------------


def shown(call: Call, fleet: AnyFleet, given: str, names: Sequence[str]) -> None:
    """Print what a run has written, as it was printed when it ran; on `names` only, if there are any. given: its id, or
    the end of it. InvalidOption when no node that answers knows of it."""
    found = fleet.one(given) if len(given) > _SHORT else _by_end(fleet.audit(_SEARCHED), given)
    if found is None:
        raise InvalidOption(f"no node that answers knows of a run {given!r}", hint="`eau2 exec --list` shows them")
    nodes: list[dict[str, object]] = []
    for name in names or sorted(found.on):
        try:
            written = fleet.written(found.record.id, name)
        except Eau2Error as error:
            if names:
                raise
            print(f"{name} | {error.message}", file=sys.stderr, flush=True)
            continue
        if written is None:
            raise InvalidOption(f"{name} has not begun {found.record.id}", hint=f"{', '.join(sorted(found.on))} have")
        if not call.json:
            _print(name, written)
        nodes.append(_written(name, written))
    call.answer(_document(found) | {"nodes": nodes}, lambda _: None)


def _by_end(found: Sequence[Audited], end: str) -> Audited | None:
    fitting = [one for one in found if one.record.id.endswith(end)]
    if len(fitting) > 1:
        ids = ", ".join(one.record.id for one in fitting[:3])
        raise InvalidOption(f"several runs end with {end!r}: {ids}", hint="give one of them whole")
    return fitting[0] if fitting else None


def _print(name: str, written: Written) -> None:
    record = written.record
    streams: tuple[tuple[Stream, list[Piece], int], ...] = (
        ("out", written.out, record.out_bytes),
        ("err", written.err, record.err_bytes),
    )
    for stream, pieces, total in streams:
        lines = Lines()
        end = 0
        for start, data in pieces:
            for _, _, text in lines.take(Output(name, stream, start, data)):
                _line(name, stream, text)
            end = start + len(data)
        for _, _, text in lines.rest(name):
            _line(name, stream, text)
        if total > end:
            _line(name, stream, f"[{total - end} bytes are missing]")
    if record.state is None or (record.state, record.code) != ("ended", 0):
        print(f"{name} | {_state(name, record)}", file=sys.stderr, flush=True)


def _line(name: str, stream: Stream, text: str) -> None:
    print(f"{name} | {text}", file=sys.stdout if stream == "out" else sys.stderr, flush=True)


def _written(name: str, written: Written) -> dict[str, object]:
    record = written.record
    said: dict[str, object] = {
        "node": name,
        "state": record.state,
        "code": record.code,
        "seconds": record.seconds,
        "why": record.why,
    }
    totals = (record.out_bytes, record.err_bytes)
    for stream, pieces, total in zip(("out", "err"), (written.out, written.err), totals, strict=True):
        said[stream] = [{"start": start, "text": data.decode("utf-8", "backslashreplace")} for start, data in pieces]
        said[f"{stream}_left_out"] = left_out(pieces, total)
    return said
