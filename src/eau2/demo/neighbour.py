"""What a second process sees of a store that is open in a first: `python -m eau2.demo.neighbour FOLDER KEY COLUMN`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.compute as pc

import eau2

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ .{4} \S+ \S+ \S+ +(/.*)$")  # in /proc/self/smaps: addresses, ..., path
_SIZE = re.compile(r"^(Rss|Shared_Clean|Shared_Dirty):\s+(\d+) kB$")


@dataclass(frozen=True, slots=True)
class Sight:
    """What it did, and how long that took."""

    open_seconds: float  # the store
    frame_seconds: float  # the frame, by its key
    sum_seconds: float  # one column of it, all rows
    rows: int
    total: int  # that sum
    mapped_bytes: int  # of the store's files that are in this process's memory; 0 where the system does not tell
    shared_bytes: int  # of these, in pages that another process has in its memory too


def look(folder: str, key: str, column: str) -> Sight:
    """Open the store in `folder`, take the frame under `key` and add up one of its columns."""
    begun = time.perf_counter()
    with eau2.open(folder) as store:
        opened = time.perf_counter()
        frame = store.frame(key)
        there = time.perf_counter()
        total = pc.sum(frame.to_arrow()[column]).as_py()
        summed = time.perf_counter()
        mapped, shared = _pages_of(folder)
        return Sight(opened - begun, there - opened, summed - there, frame.rows, total, mapped, shared)


def see(folder: Path, key: str, column: str, *, timeout_seconds: float = 60) -> Sight:
    """Return what a fresh process sees."""
    command = [sys.executable, "-m", "eau2.demo.neighbour", str(folder), key, column]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout_seconds)
    return Sight(**json.loads(done.stdout))


def _pages_of(folder: str) -> tuple[int, int]:
    """Return the resident bytes of mapped chunks under `folder`, and how many of them are shared. (0, 0) off Linux."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        return 0, 0
    root, inside = str(Path(folder).resolve()) + "/", False
    resident = shared = 0
    for line in smaps.read_text().splitlines():
        if mapping := _MAPPING.match(line):
            inside = mapping[1].startswith(root) and mapping[1].endswith(".arrow")
        elif inside and (size := _SIZE.match(line)):
            if size[1] == "Rss":
                resident += int(size[2]) << 10
            else:
                shared += int(size[2]) << 10
        elif line and line[0] in "0123456789abcdef" and "-" in line.split(" ", 1)[0]:
            inside = False  # a mapping without a file
    return resident, shared


if __name__ == "__main__":
    print(json.dumps(asdict(look(*sys.argv[1:4]))))
