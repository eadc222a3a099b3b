"""The nodes of a store that is a directory with several of them: <path>/node-0, node-1, ..."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from eau2.cluster.calls import finish
from eau2.cluster.cluster import Cluster
from eau2.cluster.founding import found_members, is_member
from eau2.cluster.local import GRACE_SECONDS, LocalMembers
from eau2.errors import Corrupt, InvalidOption, StoreUnusable
from eau2.store.local import LocalNodes
from eau2.store.membership import no_way_in
from eau2.store.node import DirectoryNode

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from eau2.cluster.epochs import Epochs
    from eau2.store.database import Flush
    from eau2.store.membership import EpochChange, Member, WayIn
    from eau2.store.nodes import Node

NODES_MAX = 1000
MEMBERS = "members.json"


class ClusterNodes:
    """`Nodes` for the directory `path` with several nodes, made when they are not there.

    nodes: how many; by default as many as there are. More than there are join it. replicas: copies of each key and
    chunk; 2 by default, and as it was when the nodes were made. Raises as `LocalNodes`, and InvalidOption.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        nodes: int | None = None,
        replicas: int | None = None,
        flush: Flush = "process",
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        with contextlib.ExitStack() as undo:
            with _others_may_have_it(Path(path) / "node-0"):
                first = LocalNodes(path, flush=flush)
            undo.callback(first.close)
            self.path = first.path
            node = first.at("node-0")
            if node.read_only:
                raise StoreUnusable(
                    f"{first.path} cannot be written, and has several nodes", hint="open a copy that can be written"
                )
            alone = not node.shared()
            view = finish(found_members(self.path, first.id, node, nodes, replicas, alone=alone))
            opened = {"node-0": node}

            def open_node(name: str) -> DirectoryNode:
                with _others_may_have_it(self.path / name):
                    return DirectoryNode(self.path / name, flush=flush, name=name)

            for name, _ in view.members:
                if name not in opened:
                    opened[name] = open_node(name)
                    undo.callback(opened[name].close)
            self.local = LocalMembers(self.path, opened, open_node, grace_seconds=grace_seconds)
            undo.pop_all()
        self._cluster = Cluster(self.local, str(path))

    def members(self) -> tuple[str, ...]:
        return self.local.names()

    def at(self, name: str) -> DirectoryNode:
        if name not in self.local.nodes:
            raise StoreUnusable(f"{self.path} has no node {name!r}", hint=f"it has {', '.join(self.local.nodes)}")
        return self.local.nodes[name]

    def membership(self) -> tuple[Member, ...]:
        return self._epochs().members

    def epochs(self) -> tuple[EpochChange, ...]:
        return self._epochs().changes

    def way_in(self) -> WayIn:
        raise no_way_in(f"the directory {self.path}")

    def _epochs(self) -> Epochs:
        self._cluster.live()  # StoreClosed
        return self.local.membership.epochs()

    def whole(self) -> Node:
        return self._cluster

    def close(self) -> None:
        self._cluster.close()

    # -- nodes that die, for tests and measurements: in this process, as if each had been one of its own ---------------

    def fail(self, name: str) -> None:
        """Take node `name` away as if it had died: what it has stays on its disk. StoreUnusable when there is none."""
        self.at(name)
        self.local.fail(name)

    def restore(self, name: str) -> None:
        """Start node `name` again: it joins, and is live when it has what it missed. StoreUnusable."""
        self.at(name)
        self.local.restore(name)

    def failed(self) -> frozenset[str]:
        """Return the nodes that are not live, or were not at some moment since everything last had all its copies."""
        view = self.local.view
        return frozenset(view.fell).union(name for name, _ in view.members if name not in view.live)

    @property
    def is_whole(self) -> bool:
        """Whether everything has all its copies where they belong, as far as repair has seen."""
        return self.local.is_whole

    def homes(self, key: str) -> tuple[str, ...]:
        """Return the live homes of `key`: the first orders its writes, and serves it."""
        return self.local.view.homes(key)

    def copied(self) -> dict[str, int]:
        """Return how many copies of keys and chunks repair has made in this process, and of how many bytes."""
        done = [repair.progress for repair in self.local.repairs.values()]
        return {field: sum(getattr(each, field) for each in done) for field in ("keys", "chunks", "bytes")}


@contextlib.contextmanager
def _others_may_have_it(directory: Path) -> Iterator[None]:
    """Say, of damage found while a node is opened, what else can be done where there are several."""
    try:
        yield
    except Corrupt as error:
        raise Corrupt(
            error.message,
            hint=f"where replicas is 2 or more others have copies: move {directory} away and open again",
        ) from error


def has_many(path: str | os.PathLike[str]) -> bool:
    """Whether the directory `path` is a store of several nodes."""
    return (Path(path) / MEMBERS).exists() or is_member(Path(path) / "node-0")


def checked_nodes(nodes: object, replicas: object) -> None:
    """Raise InvalidOption unless `nodes` is None or 1 to NODES_MAX, and `replicas` None or 1 to `nodes`."""
    for name, number, most in (("nodes", nodes, NODES_MAX), ("replicas", replicas, nodes or NODES_MAX)):
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(most, int):
            raise InvalidOption(f"{name} is a number, not {number!r}")
        if not 1 <= number <= most:
            raise InvalidOption(f"{name} is 1 to {most}, not {number}")
