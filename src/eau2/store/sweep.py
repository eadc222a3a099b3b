"""Removing what processes left that ended without closing: unnamed chunks, files without a row, staged files.

Cheap when there is nothing: one look at an index, one at a directory.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from eau2.store.holder import dead_holders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.store.chunks import ChunkFiles
    from eau2.store.reading import Reader
    from eau2.store.writing import Writer

_SECONDS_MAX = 1.0  # to get the write lock: a sweep can be put off
_UNNAMED = "select id from chunk where refs = 0"


def sweep(reader: Reader, writer: Writer, files: ChunkFiles) -> None:
    """Remove what dead processes left. Whatever stands in the way is raised; a later sweep tries again."""
    assert files.holder is not None
    if reader.rows(f"{_UNNAMED} limit 1"):
        writer.transaction(lambda: _remove_unnamed(writer), seconds=_SECONDS_MAX, makes_room=True)
    own = files.holder.directory
    dead = list(dead_holders(own.parent, own=own))
    try:
        if dead:
            _remove_files(writer, files)
        for directory, _ in dead:  # last: whoever is killed before this leaves the next one a reason to look
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        for _, lock in dead:
            os.close(lock)


def without_row(writer: Writer, chunk_ids: Sequence[str]) -> list[str]:
    """Return those of `chunk_ids` that have no row. In a transaction, so that nobody gives files their names."""
    return [
        chunk_id for chunk_id in chunk_ids if writer.execute("select 1 from chunk where id = ?", (chunk_id,)) is None
    ]


def _remove_unnamed(writer: Writer) -> None:
    writer.changes.remove([chunk_id for (chunk_id,) in writer.changes.run(_UNNAMED).fetchall()])


def _remove_files(writer: Writer, files: ChunkFiles) -> None:
    """Remove the chunk files that no row names. Lists all of them: only after a process ended without closing."""
    ids = list(files.ids())

    def change() -> None:
        for chunk_id in without_row(writer, ids):
            writer.changes.removed += files.remove(chunk_id)

    if ids:
        writer.transaction(change, seconds=_SECONDS_MAX)
