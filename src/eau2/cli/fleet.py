"""exec and push: commands and files on every node of a cluster."""

import getpass
import os
import socket
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from eau2.cli.call import Call
from eau2.cli.exits import FAILED, NEGATIVE
from eau2.cli.fleet_log import listed, outcome, shown
from eau2.errors import InvalidOption
from eau2.fleet.files import Source, read_script
from eau2.fleet.lines import Lines
from eau2.fleet.run import SCRIPT_BYTES_MAX, Command, Ended, Output, Run, Script, Work, new_id
from eau2.remote.address import SCHEME, require_ray
from eau2.served.address import SCHEME as SERVED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eau2.fleet.any_fleet import AnyFleet
    from eau2.fleet.files import Parts
    from eau2.fleet.lines import Line
    from eau2.served.connection import Connection

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
    show: Annotated[
        str | None, typer.Option("--show", metavar="RUN", help="Show what a run of the list has written.")
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", "-n", metavar="N", help="With --list: how many of the newest.", min=1)
    ] = _LISTED,
) -> None:
    """Run a command on every node of a cluster, once on each.

    The cluster was started with --allow-exec. Exit 0 when it ended with 0 on all nodes, 1 when not, 3 when of a node
    that is not known.
    """
    given = list(command or [])
    if list_ or show is not None:
        if given or script is not None or (list_ and show is not None):
            raise InvalidOption("--list and --show run nothing: leave out the command, and one of them")
        with _fleet(call) as fleet:
            if show is None:
                listed(call, fleet, rows)
            else:
                shown(call, fleet, show, _names(nodes))
        return
    work: Work = Command(tuple(given)) if script is None else _script(script, given)
    with _fleet(call) as fleet:
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
    with Source(files, to) as source, _fleet(call) as fleet:
        _run(call, fleet, source.push, nodes=nodes, deadline=deadline, rolling=rolling, parts=source)


@contextmanager
def _fleet(call: Call) -> "Iterator[AnyFleet]":
    """Give the nodes of the cluster of --store, also of one behind a server, or of this machine. InvalidOption when
    that is no cluster."""
    path = call.store_path if call.store_given else SCHEME
    if path.startswith(SERVED):
        with closing(_connected(path)) as connection:
            yield _served(connection)
        return
    if not path.startswith(SCHEME):
        raise InvalidOption(
            f"{path} is a store in a directory: commands run on the nodes of a cluster",
            hint="--store ray:, after `eau2 up --allow-exec`",
        )
    require_ray()
    from eau2.remote.deploying import RayCluster  # Ray takes half a second to import
    from eau2.remote.fleet import Fleet

    with RayCluster.of(path) as there, Fleet(there.transport) as fleet:
        yield fleet


def _connected(path: str) -> "Connection":
    from eau2.served.connecting import connect  # Flight takes 30 ms to import

    return connect(path)


def _served(connection: "Connection") -> "AnyFleet":
    from eau2.served.fleet import ServedFleet

    return ServedFleet(connection)


def _names(nodes: str | None) -> list[str]:
    return [name for name in (nodes or "").split(",") if name]


def _script(path: str, arguments: list[str]) -> Script:
    return Script(os.path.basename(path), read_script(path, SCRIPT_BYTES_MAX), tuple(arguments))


# -- running -----------------------------------------------------------------------------------------------------------


def _run(
    call: Call,
    fleet: "AnyFleet",
    work: Work,
    *,
    nodes: str | None,
    deadline: float | None,
    rolling: bool,
    parts: "Parts | None" = None,
) -> None:
    names = fleet.names(_names(nodes))
    now = time.time()
    run = Run(new_id(now), now, user_name(), socket.gethostname(), work, len(names), deadline)
    fleet.admit(run)
    printer = _Shown(as_json=call.json)
    with ExitStack() as stack:
        stack.callback(printer.flush)
        if rolling:
            ended, are_well = fleet.roll(run, names, printer.hear, parts)
        else:
            ended = fleet.run(run, names, printer.hear, parts)
            are_well = all(one.is_good for one in ended)
    document = {"run": run.id, "nodes": [one._asdict() for one in ended], "printed": printer.printed}
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
