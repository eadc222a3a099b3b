"""nodes: what each node of a store is, since when and who says so, and why that has changed."""

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.exits import NEGATIVE, printable
from eau2.cli.screen import counted, grid, size_text
from eau2.remote.address import SCHEME, require_ray
from eau2.remote.listing import TAKING_PART, NodeListing, nodes_of

if TYPE_CHECKING:
    from eau2.store.membership import EpochChange

_STYLES = {"live": "green", "dead": "red"}


def nodes(
    call: Call,
    history: Annotated[bool, typer.Option("--history", help="The latest epochs instead, and why each came.")] = False,
) -> None:
    """List the nodes of a store: their state, since when, who says so, and what they have.

    By default those of this machine's cluster. Exit 1 when a node takes no part.
    """
    if call.store_given and not call.store_path.startswith(SCHEME):
        with call.reading() as store:
            if history:
                _answer_history(call, store.epochs())
            else:
                _answer_nodes(call, nodes_of(store))
        return
    require_ray()
    from eau2.remote.deploying import RayCluster  # Ray takes half a second to import

    with RayCluster.of(call.store_path if call.store_given else SCHEME) as there:
        if history:
            _answer_history(call, there.epochs())
        else:
            _answer_nodes(call, there.nodes())


def _answer_nodes(call: Call, found: list[NodeListing]) -> None:
    call.answer([dataclasses.asdict(node) for node in found], lambda console: listed(console, found))
    if any(node.state not in TAKING_PART for node in found):
        raise typer.Exit(NEGATIVE)


def _answer_history(call: Call, epochs: "tuple[EpochChange, ...]") -> None:
    call.answer([dataclasses.asdict(epoch) for epoch in epochs], lambda console: _history(console, epochs))


def listed(console: Console, found: list[NodeListing]) -> RenderableType:
    """Return the table of nodes, and below it who says that some are not live, and what is wrong."""
    columns = ("node", "machine", "state", "since", "keys", "chunks", "bytes")
    table = grid(console, *columns, right=("keys", "chunks", "bytes"))
    for node in found:
        table.add_row(
            Text(printable(node.name)),
            Text(printable(node.machine)),
            Text(node.state, style=_STYLES.get(node.state, "yellow")),
            "" if node.since is None else _time(node.since),
            "" if node.keys is None else f"{node.keys:,}",
            "" if node.chunks is None else f"{node.chunks:,}",
            "" if node.bytes is None else size_text(node.bytes),
        )
    sources = [Text(printable(f"{node.name}: {node.source}")) for node in found if node.source and node.state != "live"]
    troubles = [f"{node.name or node.machine}: {node.trouble}" for node in found if node.trouble]
    return Group(table, *sources, *(Text(printable(trouble), style="yellow") for trouble in troubles))


def _history(console: Console, epochs: "tuple[EpochChange, ...]") -> RenderableType:
    table = grid(console, "epoch", "time", "live", "why", right=("epoch",))
    for one in epochs:
        table.add_row(str(one.epoch), _time(one.time), counted(len(one.members), "node"), Text(printable(one.why)))
    return table


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
