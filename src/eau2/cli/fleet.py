"""exec and push: commands and files on every node of a cluster."""

import dataclasses
import getpass
import os
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.exits import FAILED, NEGATIVE, printable
from eau2.cli.screen import grid
from eau2.errors import InvalidOption
from eau2.fleet.files import Source, read_script
from eau2.fleet.lines import Lines
from eau2.fleet.run import SCRIPT_BYTES_MAX, Command, Ended, Output, Run, Script, Work, new_id
from eau2.remote.address import SCHEME, require_ray
from eau2.served.address import SCHEME as SERVED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eau2.fleet.files import Parts
    from eau2.fleet.lines import Line
    from eau2.remote.fleet import Audited, Fleet

_LISTED = 20
_ANSWERS_NO = ("ended", "deadline", "cancelled")  # the command's fault; of the others it is not known what it would say

NodesOption = Annotated[
    str | None, typer.Option("--nodes", metavar="A,B", help="Only on these.  [default: on all of the cluster]")
]
DeadlineOption = Annotated[
    float | None, typer.Option("--deadline", metavar="S", help="After so many seconds it is ended, on each node.")
]
RollingOption = Annotated[
    bool, typer.Option("--rolling", help="One node after the other, each only when the one before it is well.")
]


def exec(
    call: Call,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND...", help="The program and its arguments.", show_default=False),
    ] = None,
    script: Annotated[
        str | None, typer.Option("--script", metavar="FILE", help="Run this file; arguments follow `--`.")
    ] = None,
    nodes: NodesOption = None,
    deadline: DeadlineOption = None,
    rolling: RollingOption = False,
    list_: Annotated[bool, typer.Option("--list", help="List what was run, by whom, and what came of it.")] = False,
    rows: Annotated[
        int, typer.Option("--rows", "-n", metavar="N", help="With --list: how many of the newest.", min=1)
    ] = _LISTED,
) -> None:
    """Run a command on every node of a cluster, once on each.

    The cluster was started with --allow-exec. Exit 0 when it ended with 0 on all nodes, 1 when not, 3 when of a node
    that is not known.
    """
    given = list(command or [])
    if list_:
        if given or script is not None:
            raise InvalidOption("--list runs nothing: leave out the command")
        _list(call, rows)
        return
    work: Work = Command(tuple(given)) if script is None else _script(script, given)
    with _fleet(call, runs=True) as fleet:
        _run(call, fleet, work, nodes=nodes, deadline=deadline, rolling=rolling)


def push(
    call: Call,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="What to push.", show_default=False)],
    to: Annotated[
        str, typer.Option("--to", metavar="DIR", help="Where to, on each node; {node} in it is the node's name.")
    ],
    nodes: NodesOption = None,
    deadline: DeadlineOption = None,
    rolling: RollingOption = False,
) -> None:
    """Write files into a folder on every node of a cluster.

    Each appears whole or not at all, with its mode. The cluster was started with --allow-exec.
    """
    with Source(files, to) as source, _fleet(call, runs=True) as fleet:
        _run(call, fleet, source.push, nodes=nodes, deadline=deadline, rolling=rolling, parts=source)


@contextmanager
def _fleet(call: Call, *, runs: bool) -> "Iterator[Fleet]":
    """Give the nodes of the cluster of --store, or of this machine. InvalidOption when that is no cluster; NotAllowed
    when something is to be run, and it was started without that."""
    path = call.store_path if call.store_given else SCHEME
    if not path.startswith(SCHEME):
        what = "a store that is served" if path.startswith(SERVED) else "a store in a directory"
        raise InvalidOption(
            f"{path} is {what}: commands run on the nodes of a cluster, from one of its machines",
            hint="--store ray:, after `eau2 up --allow-exec`",
        )
    require_ray()
    from eau2.remote.deploying import RayCluster  # Ray takes half a second to import
    from eau2.remote.fleet import Fleet
    from eau2.remote.runs import not_allowed

    with RayCluster.of(path) as there, Fleet(there.transport) as fleet:
        if runs and not there.deployed[there.address.name].get("allow_exec"):
            raise not_allowed(f"the cluster {there.address.name!r}")
        yield fleet


def _script(path: str, arguments: list[str]) -> Script:
    return Script(os.path.basename(path), read_script(path, SCRIPT_BYTES_MAX), tuple(arguments))


# -- running -----------------------------------------------------------------------------------------------------------


def _run(
    call: Call,
    fleet: "Fleet",
    work: Work,
    *,
    nodes: str | None,
    deadline: float | None,
    rolling: bool,
    parts: "Parts | None" = None,
) -> None:
    names = fleet.names([name for name in (nodes or "").split(",") if name])
    now = time.time()
    run = Run(new_id(now), now, user_name(), socket.gethostname(), work, len(names), deadline)
    shown = _Shown(as_json=call.json)
    with ExitStack() as stack:
        stack.callback(shown.flush)
        if rolling:
            ended, are_well = fleet.roll(run, names, shown.hear, parts)
        else:
            ended = fleet.run(run, names, shown.hear, parts)
            are_well = all(one.is_good for one in ended)
    document = {"run": run.id, "nodes": [one._asdict() for one in ended], "printed": shown.printed}
    call.answer(document, lambda _: None)  # what there was to say is printed by now
    if not are_well:
        raise typer.Exit(_code(ended))


def user_name() -> str:
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody of that number has a name here
        return str(os.getuid())


def _code(ended: "Sequence[Ended]") -> int:
    """Return the exit code of a run that was not well.

    >>> _code([Ended("a", "ended", 0), Ended("b", "ended", 2)]), _code([Ended("a", "lost"), Ended("b", "ended", 2)])
    (1, 3)
    """
    bad = [one.state for one in ended if not one.is_good and one.state != "skipped"]
    return NEGATIVE if bad and all(state in _ANSWERS_NO for state in bad) else FAILED


class _Shown:
    """Prints what nodes say as it comes, a line at a time with the node's name; or keeps it for JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.printed: list[dict[str, str]] = []
        self._as_json = as_json
        self._lines = Lines()
        self._width = 0

    def hear(self, said: Output | Ended) -> None:
        if isinstance(said, Output):
            self._show(self._lines.take(said))
            return
        self._show(self._lines.rest(said.node))
        if not said.is_good and not self._as_json:
            print(f"{said.node} | {outcome(said)}", file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Show the lines that were begun on nodes of which nothing more is heard."""
        self._show(self._lines.rest_of_all())

    def _show(self, lines: "Iterator[Line]") -> None:
        for node, stream, text in lines:
            if self._as_json:
                self.printed.append({"node": node, "stream": stream, "line": text})
            else:
                print(f"{node} | {text}", file=sys.stdout if stream == "out" else sys.stderr, flush=True)


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


# -- looking back ------------------------------------------------------------------------------------------------------


def _list(call: Call, rows: int) -> None:
    with _fleet(call, runs=False) as fleet:
        found = fleet.audit(rows)
    call.answer([_document(one) for one in found], lambda console: _listed(console, found))


def _document(audited: "Audited") -> dict[str, object]:
    record = audited.record
    known = {"id", "time", "user", "host", "kind", "text", "sha256"}
    document = {name: value for name, value in dataclasses.asdict(record).items() if name in known}
    on = [
        {"node": name, "state": one.state, "code": one.code, "seconds": one.seconds, "why": one.why}
        for name, one in sorted(audited.on.items())
    ]
    return document | {"asked": record.nodes, "nodes": on}


def _listed(console: Console, found: "list[Audited]") -> RenderableType:
    table = grid(console, "when", "who", "what", "nodes", "came of it", right=("nodes",))
    for one in found:
        record = one.record
        when = datetime.fromtimestamp(record.time, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        what = record.text if record.kind != "script" else f"{record.text} (sha256 {record.sha256[:12]})"
        is_good = all(each.state == "ended" and each.code == 0 for each in one.on.values())
        table.add_row(
            when,
            Text(printable(f"{record.user}@{record.host}")),
            Text(printable(what)),
            f"{len(one.on)}/{record.nodes}",
            Text(_together(one), style="green" if is_good else "yellow"),
        )
    return table if found else Group(Text("nothing was run on these nodes"))


def _together(audited: "Audited") -> str:
    """Return what came of a run on all nodes that have begun it: each outcome with the nodes that had it."""
    nodes: dict[str, list[str]] = {}
    for name, one in sorted(audited.on.items()):
        said = "no end" if one.state is None else outcome(Ended(name, one.state, one.code))
        nodes.setdefault(said, []).append(name)
    if len(nodes) == 1:
        return next(iter(nodes))
    return "; ".join(f"{', '.join(names)} {said}" for said, names in nodes.items())
