"""The node of a store that is a directory on this machine. Where there are several, `cluster/` has the others.

<path>/eau2.json     {"format": 1, "id": ...}: this is a store. Made first, and whole at once
<path>/node-0/       a DirectoryNode
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from eau2.errors import (
    Corrupt,
    DiskFull,
    Eau2Error,
    FormatTooNew,
    NotAStore,
    ReadOnly,
    StoreUnusable,
    failed_call,
    is_disk_full,
)
from eau2.store.chunks import flush_file
from eau2.store.membership import EpochChange, Member, WayIn, no_way_in
from eau2.store.node import DirectoryNode

if TYPE_CHECKING:
    from eau2.store.database import Flush
    from eau2.store.nodes import Node

FORMAT = 1
MARKER = "eau2.json"
FIRST_NODE = "node-0"
_FILLED = "filled"  # an empty file: the node has been made, and is not to be made anew where it has gone
_MAKING = ".eau2.json."  # a marker that is being written; what a killed creator leaves
_IGNORED = ("lost+found",)  # a file system of its own has it


class LocalNodes:
    """`Nodes` for the directory `path`, which is made, with its parents, when it is not there.

    Raises NotAStore (the directory holds something else), FormatTooNew, Corrupt, StoreUnusable, ReadOnly, DiskFull.
    """

    def __init__(self, path: str | os.PathLike[str], *, flush: Flush = "process") -> None:
        self.path = Path(os.path.abspath(path))
        try:
            self.id = self._known() or self._made()
            self._tidy()
            self._require_node()
            self._node = DirectoryNode(self.path / FIRST_NODE, flush=flush, name=FIRST_NODE)
            self._opened = time.time()
            if not (self.path / _FILLED).exists():
                with contextlib.suppress(OSError):  # one that cannot be written need not be marked
                    (self.path / _FILLED).touch()
        except OSError as error:
            if isinstance(error, Eau2Error):
                raise
            raise _cannot_open(error, self.path) from error

    def _require_node(self) -> None:
        if not (self.path / _FILLED).exists():  # looked at first: whoever makes the node at this moment marks it last
            return
        node = self.path / FIRST_NODE
        there = (node / "entries.db").exists() or (node / "generation").exists()
        alone = not any(self.path.glob("node-[1-9]*"))  # else others may have copies, and it is made anew from those
        if alone and not there:
            raise Corrupt(
                f"{node} is missing, or empty, which has what was stored",
                hint=f"is its disk mounted? put it back; or remove {self.path / _FILLED} to begin anew",
            )

    def members(self) -> tuple[str, ...]:
        return (FIRST_NODE,)

    def at(self, name: str) -> DirectoryNode:
        if name != FIRST_NODE:
            raise StoreUnusable(f"{self.path} has no node {name!r}", hint=f"its node is {FIRST_NODE!r}")
        return self._node

    def membership(self) -> tuple[Member, ...]:
        self._node.generation()  # StoreClosed
        return (Member(FIRST_NODE, "live", self._opened, "this process: it has the node open"),)

    def epochs(self) -> tuple[EpochChange, ...]:
        self._node.generation()  # StoreClosed
        marker = self.path / MARKER
        try:
            made = marker.stat().st_mtime
        except OSError as error:  # somebody has removed or moved the directory
            raise failed_call(error, marker) from error
        return (EpochChange(1, made, (FIRST_NODE,), "the store was made with 1 node"),)

    def way_in(self) -> WayIn:
        raise no_way_in(f"the directory {self.path}")

    def whole(self) -> Node:
        return self._node

    def close(self) -> None:
        self._node.close()

    def _known(self) -> str:
        """Return the store's id, or "" where nothing is yet."""
        marker = self.path / MARKER
        try:
            text = marker.read_bytes()
        except FileNotFoundError:
            return ""
        except NotADirectoryError:
            raise NotAStore(f"{self.path} is a file, not a store", hint="a store is a directory") from None
        try:
            known = json.loads(text)
            format_, identity = known["format"], known["id"]
        except (ValueError, TypeError, KeyError):
            raise Corrupt(f"{marker} is damaged", hint='write {"format": 1, "id": "..."} into it') from None
        if not isinstance(format_, int) or not isinstance(identity, str) or format_ < 1 or not identity:
            raise Corrupt(f"{marker} is damaged", hint='write {"format": 1, "id": "..."} into it')
        if format_ > FORMAT:
            raise FormatTooNew(
                f"{self.path} has format {format_}, this eau2 reads up to {FORMAT}", hint="use a newer eau2"
            )
        return identity

    def _made(self) -> str:
        """Make the marker, unless another process is first; return the store's id."""
        self.path.mkdir(parents=True, exist_ok=True)
        others = [name for name in os.listdir(self.path) if not name.startswith(_MAKING) and name not in _IGNORED]
        if others and MARKER not in others:
            raise NotAStore(
                f"{self.path} is not empty and holds no store: it has {sorted(others)[0]!r}",
                hint="name another directory",
            )
        new = self.path / f"{_MAKING}{uuid.uuid4().hex}"
        try:
            new.write_text(json.dumps({"format": FORMAT, "id": str(uuid.uuid4())}) + "\n")
            with contextlib.suppress(FileExistsError, FileNotFoundError):  # another process was first, and tidied up
                flush_file(new)
                os.link(new, self.path / MARKER)
            flush_file(self.path)
        finally:
            new.unlink(missing_ok=True)
        identity = self._known()
        if not identity:
            raise StoreUnusable(f"{self.path / MARKER} was removed while the store was made", hint="open it again")
        return identity

    def _tidy(self) -> None:
        """Remove what creators left that were killed, also one that was killed when its marker stood already."""
        with contextlib.suppress(OSError):  # a directory that cannot be written keeps it
            for name in os.listdir(self.path):
                if name.startswith(_MAKING):
                    (self.path / name).unlink(missing_ok=True)


def _cannot_open(error: OSError, path: Path) -> Eau2Error:
    if is_disk_full(error):
        return DiskFull(f"{path}: the disk or quota is full", hint="free some space")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnly(f"{path} cannot be written, and holds no store", hint="name a directory that can be written")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return NotAStore(f"{path} is not a directory", hint="a store is a directory")
    return StoreUnusable(f"{path} cannot be opened: {error.strerror}", hint="see whether the path is right")
