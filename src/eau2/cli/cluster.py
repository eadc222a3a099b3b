"""up, down, deploy and drain: a cluster on this machine, or on the machines of a Ray cluster."""

import dataclasses
import shlex
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.exits import printable
from eau2.cli.nodes import listed
from eau2.cli.screen import counted, facts
from eau2.machine import memory_of_machine
from eau2.remote import launch
from eau2.remote.address import SCHEME, Address, address_of, require_ray
from eau2.remote.deployment import Deployment

if TYPE_CHECKING:
    from eau2.remote.raylets import LocalCluster

NameOption = Annotated[str, typer.Option("--name", metavar="NAME", help="Of the cluster; there may be several.")]
ReplicasOption = Annotated[
    int | None, typer.Option("--replicas", metavar="N", help="Copies of each key and chunk.  [default: 2]")
]
FlushOption = Annotated[
    Literal["process", "power"] | None,
    typer.Option("--flush", help="power: what is acknowledged survives a loss of power, too.  [default: process]"),
]
AllowExecOption = Annotated[
    bool, typer.Option("--allow-exec", help="Let `eau2 exec` and `eau2 push` run commands on every node.")
]


def up(
    call: Call,
    nodes: Annotated[
        int | None, typer.Option("--nodes", metavar="N", help="How many.  [default: as it had, at first 4]")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="What is stored.  [default: in EAU2_HOME]")
    ] = None,
    replicas: ReplicasOption = None,
    flush: FlushOption = None,
    allow_exec: AllowExecOption = False,
    name: NameOption = launch.NAME,
) -> None:
    """Start a cluster of several nodes on this machine.

    It listens to this machine only. What was stored in it before is there. When it runs, what is missing is started.
    """
    require_ray()
    cluster, started = launch.up(
        name, machines=nodes, data_directory=data_dir, replicas=replicas, flush=flush, allow_exec=allow_exec
    )
    from eau2.remote.deploying import RayCluster  # Ray takes half a second to import

    with RayCluster(Address(cluster.address, name, cluster.environment())) as there:
        memory = memory_of_machine() // 2 // len(cluster.machines)
        data = str(cluster.data_directory)
        there.deploy(
            Deployment(name, data, cluster.replicas, cluster.flush, memory_bytes=memory, allow_exec=cluster.allow_exec)
        )
    store = SCHEME if name == launch.NAME else f"{SCHEME}{name}"
    document = {
        "store": store,
        "address": cluster.address,
        "nodes": cluster.machines,
        "started": started,
        "data_directory": str(cluster.data_directory),
        "replicas": cluster.replicas,
        "allow_exec": cluster.allow_exec,
    }
    call.answer(document, lambda _: _upped(cluster, store, started))


def _upped(cluster: "LocalCluster", store: str, started: list[str]) -> RenderableType:
    news = f"{counted(len(started), 'node')} started" if started else "it was running"
    named = "" if cluster.name == launch.NAME else f" --name {cluster.name}"
    return Group(
        Text(f"{counted(len(cluster.machines), 'node')} in {printable(str(cluster.data_directory))}: {news}"),
        Text(""),
        facts(
            [
                ("in Python", f'store = eau2.open("{store}")'),
                ("here", f"eau2 load trips FILE.csv --store {store}"),
                ("its nodes", f"eau2 nodes --store {store}"),
                ("the end", f"eau2 down{named}"),
            ]
        ),
    )


def down(call: Call, name: NameOption = launch.NAME) -> None:
    """End a cluster that `eau2 up` started on this machine, all of it.

    What is stored stays, for the next `eau2 up`.
    """
    known = launch.find(name)
    ended = launch.down(name)
    kept = str(known.data_directory) if known else ""
    said = f"{ended} processes ended" if ended else _not_running(name)
    document = {"processes": ended, "data_directory": kept}
    call.answer(document, lambda console: console.print(Text(said), soft_wrap=True))  # a command is to be copied


def _not_running(name: str) -> str:
    lines = [f"the cluster {name!r} of {printable(str(launch.home()))} was not running"]
    lines += [
        f"one of another home is: EAU2_HOME={shlex.quote(printable(str(home)))} eau2 down --name {name}"
        for home in launch.homes_that_run(name)
    ]
    return "\n".join(lines)


def deploy(
    call: Call,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Of the head.  [default: this machine's]")
    ] = None,
    data_dir: Annotated[
        str, typer.Option("--data-dir", metavar="DIR", help="On each machine.  [default: in EAU2_HOME there]")
    ] = "",
    replicas: ReplicasOption = None,
    flush: FlushOption = None,
    allow_exec: AllowExecOption = False,
    name: NameOption = launch.NAME,
) -> None:
    """Put a cluster on the machines of a Ray cluster, a node on each.

    Also on those that join later. Returns when it is whole.
    """
    require_ray()
    from eau2.remote.deploying import RayCluster

    found = address_of(f"{SCHEME}{address}/{name}" if address else f"{SCHEME}{name}")
    with RayCluster(found) as there:
        known = there.deployed.get(name, {})
        copies = known.get("replicas", 2) if replicas is None else replicas
        allowed = allow_exec or bool(known.get("allow_exec"))
        flushed = flush or known.get("flush", "process")
        there.deploy(Deployment(name, data_dir, copies, flushed, allow_exec=allowed))
        nodes = there.nodes()
    call.answer(
        {"address": found.head, "name": name, "nodes": [dataclasses.asdict(node) for node in nodes]},
        lambda console: listed(console, nodes),
    )


def drain(
    call: Call,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name.", show_default=False)],
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="For how long to wait until it has left.")
    ] = 600.0,
) -> None:
    """Have a node leave a cluster for good.

    It serves until the others have copies of all it has. A dead node is given up, and what only it has.
    """
    require_ray()
    from eau2.remote.deploying import RayCluster

    with RayCluster.of(call.store_path if call.store_path.startswith(SCHEME) else SCHEME) as there:
        there.drain(node, timeout_seconds=timeout)
    call.answer({"node": node, "state": "left"}, lambda _: Text(f"{printable(node)} has left"))
