"""join and leave: this machine becomes a part of a cluster that others have, and goes again."""

import dataclasses
import socket
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.cluster import NameOption
from eau2.cli.exits import printable
from eau2.cli.fleet import user_name
from eau2.cli.screen import facts
from eau2.errors import ClusterUnavailable, InvalidOption
from eau2.opening import open as open_store
from eau2.remote import launch
from eau2.remote.address import SCHEME, address_of, look, own_token, reach
from eau2.remote.joining import brought_in, checked_host, checked_machine, own_versions, require_alike
from eau2.served.address import SCHEME as SERVED
from eau2.store.membership import WayIn

if TYPE_CHECKING:
    from eau2.remote.listing import NodeListing
    from eau2.remote.raylets import LocalCluster

_DISCONNECT_SECONDS = 2.0
_HEAD_HINT = (
    "Ray knows no other way in; is its process, gcs_server, running there, and does this machine reach that one?"
)


def join(
    call: Call,
    node: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS", help="eau2://HOST:PORT of any node that serves, or ray:HOST:PORT.", show_default=False
        ),
    ],
    machine: Annotated[
        str | None, typer.Option("--machine", metavar="NAME", help="Of this one.  [default: its host name]")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="ADDRESS", help="Of this one.  [default: that which leads to the head]"),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="For how long to wait until it is live.")
    ] = 120.0,
) -> None:
    """Bring this machine into a cluster, through any node of it.

    Ray is started here, and returns when the new node is live. It takes Ray's token of the cluster.
    """
    name = checked_machine(machine)
    way = _way_in(node)
    require_alike(way, own_versions())
    joined, is_new, found = _brought(way, name, host, timeout)
    document = dataclasses.asdict(found) | {
        "head": way.head,
        "cluster": way.cluster,
        "through": way.through,
        "started": is_new,
        "data_directory": str(joined.data_directory),
    }
    call.answer(document, lambda _: _joined(joined, found, way, is_new))


def _brought(way: WayIn, name: str, host: str | None, timeout: float) -> "tuple[LocalCluster, bool, NodeListing]":
    """Have this machine be in the cluster that `way` leads into; return its part of it, whether it had to be started,
    and its node, which is live. What was started is ended when it does not come to that."""
    token = own_token()
    ours = checked_host(reach(way.head, who="the head, {},", hint=_HEAD_HINT), way.head)
    text = f"{SCHEME}{way.head}/{way.cluster}"
    deployed = look(address_of(text)).get(way.cluster)
    if deployed is None:
        raise ClusterUnavailable(
            f"there is no cluster {way.cluster!r} at {way.head}", hint="`eau2 deploy` puts one there"
        )
    brought = brought_in(user_name(), socket.gethostname(), way.through, time.time())
    joined, is_new = launch.join(
        way,
        name,
        host=host or ours,
        token=token,
        data_directory=str(deployed["data_directory"]),
        replicas=int(deployed["replicas"]),
        brought=brought,
    )
    try:
        from eau2.remote.deploying import RayCluster  # Ray takes half a second to import

        with RayCluster.of(text) as there:
            found = there.await_live(name, timeout_seconds=timeout)
    except Exception:
        if is_new:
            _disconnect()
            launch.abandon(joined)
        raise
    except BaseException:  # Ctrl-C: there are 0.7 s left
        if is_new:
            launch.abandon_later(joined)
        raise
    return joined, is_new, found


def _way_in(text: str) -> WayIn:
    """Ask the node at `text` for the way in. ClusterUnavailable, InvalidOption, ReadOnly."""
    if text.startswith(SERVED):
        with open_store(text) as store:
            return store.way_in()
    if not text.startswith(SCHEME):
        raise InvalidOption(f"{text!r} is no node of a cluster", hint="eau2://HOST:PORT, or ray:HOST:PORT of the head")
    address, ours = address_of(text), own_versions()  # the head says whether it has the same, when it is looked at
    return WayIn(address.head, address.name, "", ours["Python"], ours["Ray"], ours["eau2"])


def _disconnect() -> None:
    """Let go of Ray, before the raylet that we are connected by is ended."""
    from eau2.remote.ray import disconnected

    disconnected(_DISCONNECT_SECONDS)


def _joined(joined: "LocalCluster", node: "NodeListing", way: WayIn, is_new: bool) -> RenderableType:
    news = f"it joined through {way.through or way.head}" if is_new else "it was there already"
    store = SCHEME if way.cluster == launch.NAME else f"{SCHEME}{way.cluster}"
    named = "" if way.cluster == launch.NAME else f" --name {way.cluster}"
    return Group(
        Text(printable(f"{node.name} is {node.state} in the cluster at {way.head}: {news}")),
        Text(""),
        facts(
            [
                ("its data", printable(str(joined.data_directory))),
                ("in Python", f'store = eau2.open("{store}")'),
                ("its nodes", f"eau2 nodes --store {store}"),
                ("for a while", f"eau2 down{named}"),
                ("for good", f"eau2 leave{named}"),
            ]
        ),
    )


def leave(
    call: Call,
    name: NameOption = launch.NAME,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="For how long to wait until its node has left.")
    ] = 600.0,
) -> None:
    """Have this machine leave, for good, the cluster that it has joined.

    Its node serves until the others have copies of all it has; then Ray ends here.
    """
    known = launch.find(name)
    if known is None or not known.host:
        raise InvalidOption(
            f"this machine has not joined a cluster {name!r}",
            hint="`eau2 drain NODE` has a node leave that came otherwise; `eau2 down` ends a cluster of this machine",
        )
    if not known.runs:
        raise ClusterUnavailable(
            f"Ray does not run here for {name!r}, so nobody can be asked",
            hint=f"`eau2 drain {known.machines[0]}` on another machine, and then `eau2 down` here",
        )
    left = _drained(known, timeout)
    ended = launch.down(name)
    document = {"node": left, "state": "left", "processes": ended, "data_directory": str(known.data_directory)}
    said = f"{left} has left, and {ended} processes ended; what is in {known.data_directory} is not needed any more"
    call.answer(document, lambda _: Text(printable(said)))


def _drained(known: "LocalCluster", timeout: float) -> str:
    """Have the node of this machine leave; return its name."""
    from eau2.remote.deploying import RayCluster

    machine = known.machines[0]
    try:
        with RayCluster.of(f"{SCHEME}{known.address}/{known.name}") as there:
            found = there.node_of(machine)
            if found is None or not found.name:
                raise ClusterUnavailable(
                    f"{machine} has no node in {known.name!r}", hint="`eau2 down` ends what runs of it here"
                )
            there.drain(found.name, timeout_seconds=timeout)
            return found.name
    finally:
        _disconnect()
