"""What nodes keep for queries, as it lies in their folders."""

import os
import re
from pathlib import Path

from tests.until import until

from eau2.ingest.writer import FrameWriter

_QUERY = re.compile(r"[0-9a-f]{32}")


def kept_in(folder):
    """The files and folders that queries have on nodes whose directories are somewhere in `folder`."""
    found = []
    for place, folders, files in os.walk(folder):  # which passes over what is removed meanwhile; `glob` would raise
        parts = Path(place).parts
        spills = [index for index, part in enumerate(parts) if part.startswith("eau2-spill-")]
        if spills:
            of_query = any(_QUERY.fullmatch(part) for part in parts[spills[0] + 1 :])
            found += [f"{place}/{name}" for name in (*folders, *files) if of_query or _QUERY.fullmatch(name)]
    return sorted(found)


def nothing_is_kept(folder):
    """Wait until queries have nothing more there: whoever asks does not wait for their jobs to end."""
    until(lambda: kept_in(folder) == [])


def rows_per_chunk(monkeypatch, count, row_bytes=24):
    """Have frames cut into chunks of about so many rows."""
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", count * row_bytes)
