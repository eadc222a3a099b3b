"""`eau2.open`: from what the user types to a store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from eau2.cluster.directory import ClusterNodes, checked_nodes, has_many
from eau2.errors import InvalidOption
from eau2.frame.tables import FrameTables
from eau2.query.engine import Engine
from eau2.remote.address import SCHEME, require_ray
from eau2.served.address import SCHEME as SERVED
from eau2.store.local import FIRST_NODE, LocalNodes
from eau2.store.store import Store

if TYPE_CHECKING:
    from eau2.store.nodes import Nodes
    from eau2.store.tables import Tables


def open(  # `eau2.open` is what users type
    path: str | os.PathLike[str],
    *,
    nodes: int | None = None,
    replicas: int | None = None,
    flush: Literal["process", "power"] = "process",
    memory_bytes: int | None = None,
    token: str | None = None,
    tls: bool | str | os.PathLike[str] | None = None,
) -> Store:
    """Open the store in the directory `path`, making it when there is none. About 10 ms.

    "ray:", "ray:NAME", "ray:HOST:PORT" or "ray:HOST:PORT/NAME" is a cluster that `eau2 up` or `eau2 deploy` has made,
    on this machine or where the head of Ray is; NAME is "eau2" by default. About 1.5 s for the first in a process. It
    has the nodes, replicas and flush that it was made with. Raises PartMissing without Ray; ClusterUnavailable when it
    is not there or does not answer; VersionsDiffer.

    "eau2://HOST:PORT" is a store that `eau2 serve` serves there; the port is 7400 by default. It has the nodes,
    replicas and flush that it is served with; queries run there. token: what the server knows us by; by default
    EAU2_TOKEN of the environment. tls: True where the server has a certificate that this machine trusts, or the path of
    the certificates to trust (PEM); by default EAU2_TLS_CA of the environment. Raises ClusterUnavailable when nobody
    answers there, or refuses us; VersionsDiffer.

    nodes: how many nodes it has, all in this directory and in each process that opens it: keys and chunks are spread
    over them and copied as on a cluster, for tests, for learning, and over several disks. By default as many as the
    store has, and one when it is made. More than it has join it.
    replicas: how many nodes have each key and chunk; 2 by default where there are several nodes.

    flush: what an acknowledged write survives. "process": the end of any process, kill -9 included; it has been handed
    to the operating system. "power": also the loss of power; it is on the medium.
    memory_bytes: what queries together may hold in this process before they spill to disk; half of the machine by
    default. Nodes of a cluster have their own.

    Any number of processes may have the directory open. Raises NotAStore, FormatTooNew, StoreUnusable, ReadOnly,
    InvalidOption.
    """
    text = os.fspath(path)
    if not text:
        raise InvalidOption(f"a store is the path of a directory, not {path!r}", hint="for example eau2.open('data/')")
    if flush not in ("process", "power"):
        raise InvalidOption(f"flush is 'process' or 'power', not {flush!r}")
    if memory_bytes is not None and memory_bytes < 16 << 20:
        raise InvalidOption(f"memory_bytes is at least {16 << 20:,}, not {memory_bytes!r}")
    checked_nodes(nodes, replicas)
    members: Nodes
    tables: Tables
    is_elsewhere = text.startswith((SCHEME, SERVED))
    if is_elsewhere and (nodes is not None or replicas is not None or flush != "process"):
        raise InvalidOption(f"{text!r} has the nodes, replicas and flush that it was made with", hint="leave them out")
    if not text.startswith(SERVED) and (token is not None or tls is not None):
        raise InvalidOption(f"token and tls are for a served store, not for {text!r}", hint="leave them out")
    if text.startswith(SERVED):
        members, tables = _served(text, token, tls, memory_bytes)
    elif is_elsewhere:
        members, tables = _on_ray(text, memory_bytes)
    else:
        members, tables = _here(text, nodes, replicas, flush, memory_bytes)
    return Store(members, tables, name=text)


def _here(
    text: str, nodes: int | None, replicas: int | None, flush: Literal["process", "power"], memory_bytes: int | None
) -> tuple[Nodes, FrameTables]:
    members: LocalNodes | ClusterNodes
    if (nodes or 1) > 1 or has_many(text):
        members = ClusterNodes(text, nodes=nodes, replicas=replicas, flush=flush)
    else:
        members = LocalNodes(text, flush=flush)
    engine = Engine(memory_bytes)
    members.at(FIRST_NODE).figures.also("engine_", engine.statistics)  # of the process, which its nodes share
    return members, FrameTables(engine)


def _served(
    text: str, token: str | None, tls: bool | str | os.PathLike[str] | None, memory_bytes: int | None
) -> tuple[Nodes, FrameTables]:
    from eau2.served.connecting import connect  # Flight takes 30 ms to import
    from eau2.served.node import ServedNodes
    from eau2.served.tables import ServedTables

    connection = connect(text, token, tls)
    return ServedNodes(connection), ServedTables(connection, memory_bytes)


def _on_ray(text: str, memory_bytes: int | None) -> tuple[Nodes, FrameTables]:
    require_ray()
    from eau2.remote.deploying import RayNodes  # Ray is optional, and takes half a second to import
    from eau2.remote.workers import tables_of

    nodes = RayNodes(text)
    return nodes, tables_of(nodes, memory_bytes)
