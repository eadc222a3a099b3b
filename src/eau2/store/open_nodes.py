"""The nodes that this process has open: closed when it ends, and left alone in a child that it forks."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class OpenNode(Protocol):
    """What a node does at the end of its process, and at a fork."""

    def close(self) -> None: ...

    def abandon(self) -> None:
        """In a forked child: use nothing that is the parent's."""


_nodes: weakref.WeakSet[OpenNode] = weakref.WeakSet()
_hooks: list[str] = []  # set up when the first node is opened, once


def add_open(node: OpenNode) -> None:
    if not _hooks:
        os.register_at_fork(after_in_child=_abandon_all)
        atexit.register(_close_all)
        _hooks.append("set")
    _nodes.add(node)


def remove_open(node: OpenNode) -> None:
    _nodes.discard(node)


def _close_all() -> None:
    for node in list(_nodes):
        node.close()


def _abandon_all() -> None:
    for node in list(_nodes):
        node.abandon()
    _nodes.clear()
