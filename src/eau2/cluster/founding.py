"""Who is a member of a directory when it is opened: made new, joined, or back after its directory was lost.

<path>/node-N/member    the id of the store: what is in this directory is as far as the view says it is
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from eau2.cluster.shared import Membership
from eau2.cluster.view import State, View, first_view
from eau2.errors import Corrupt, InvalidOption, StoreBusy, failed_call

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eau2.store.nodes import Replica

REPLICAS = 2
MARK = "member"


async def found_members(
    path: Path, identity: str, node: Replica, nodes: int | None, replicas: int | None, *, alone: bool
) -> View:
    """Return the view of the directory `path` of the store `identity`, whose first node is `node`.

    It is made where there is none; nodes that are not in it yet join. `alone`: no other process has the directory open;
    then those that were dead join again, and those whose directory is gone do with a new one, as long as there are
    copies of all that was in it. InvalidOption when there are more nodes, or other replicas; StoreBusy; Corrupt.
    """
    ended = threading.Event()
    membership = Membership(path, ended)
    names = tuple(f"node-{number}" for number in range(nodes or 1))

    def make(found: View | None) -> View:
        if found is None:
            view = _first(path, node, names, replicas or REPLICAS, lost=membership.epoch() > 0, alone=alone)
            for name, state in view.members:
                if state == State.LIVE:
                    _mark(path / name, identity)
            return view
        if nodes is not None and len(found.members) > nodes:
            raise InvalidOption(f"{path} has {len(found.members)} nodes, not {nodes}", hint="leave out nodes=")
        if replicas is not None and found.replicas != replicas:
            raise InvalidOption(f"{path} keeps {found.replicas} copies, not {replicas}", hint="leave out replicas=")
        return _joined(_returned(path, identity, found, alone=alone), names)

    try:
        view = await membership.change(make)
        for name in view.present:
            _mark(path / name, identity)
        if view.epoch == 1:  # nothing has ever moved
            membership.tidied(1)
        return view
    finally:
        ended.set()
        membership.close()


def is_member(path: Path) -> bool:
    """Whether the directory of a node is, or was, of a store of several."""
    return (path / MARK).exists()


def _first(path: Path, node: Replica, names: Sequence[str], replicas: int, *, lost: bool, alone: bool) -> View:
    if not node.listing("", 1):
        return first_view(names, replicas)
    if lost or is_member(path / "node-0"):
        raise Corrupt(f"{path / 'members.json'} is missing", hint="restore the file from a copy")
    if not alone:
        raise StoreBusy(f"{path} is open elsewhere with one node", hint="close it there, then open it with several")
    node.adopt()
    return _joined(first_view(names[:1], replicas), names)


def _joined(view: View, names: Sequence[str]) -> View:
    known = {name for name, _ in view.members}
    for name in names:
        if name not in known:
            view = view.having(name, State.JOINING)
    return view


def _returned(path: Path, identity: str, view: View, *, alone: bool) -> View:
    gone = [name for name in view.present if not _is_of(path / name, identity)]
    lost = {name for name in gone if name in view.base} | set(view.fell)
    if gone and len(lost) >= min(view.replicas, len(view.base)):
        raise Corrupt(
            f"{path}: {' and '.join(gone)} gone, and with {'it' if len(gone) == 1 else 'them'} all copies of some keys",
            hint="restore what was in there from a copy",
        )
    if gone and not alone:
        raise StoreBusy(f"{path}: {' and '.join(gone)} gone, and it is open elsewhere", hint="close it there")
    if alone:
        for name in gone:
            view = view.having(name, State.DEAD)  # what it had is not there any more
        for name in view.dead:
            view = view.having(name, State.JOINING)
    return view


def _is_of(path: Path, identity: str) -> bool:
    """Whether the directory of a node is there, and of this store. Corrupt when it is another's."""
    try:
        known = (path / MARK).read_text()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise failed_call(error, path) from error
    if known != identity:
        raise Corrupt(f"{path} is of another store", hint="put back the directory that was there")
    return True


def _mark(path: Path, identity: str) -> None:
    mark = path / MARK
    try:
        path.mkdir(exist_ok=True)
        if not mark.exists():
            new = path / f"{MARK}.new"
            new.write_text(identity)
            new.replace(mark)
    except OSError as error:
        raise failed_call(error, mark) from error
