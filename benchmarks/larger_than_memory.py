"""Work on more data than the memory it is given: queries that spill, a stream that is put, a file that is loaded.

Each runs in a process of its own, whose status the kernel keeps is read every 5 ms. Counted is its anonymous memory
(RssAnon: heap, buffers, hash tables). Not counted are pages of files it has mapped, which belong to the page cache, are
shared with every other process, and are given up when memory is short; the highest total of both is told beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import eau2
from benchmarks.measure import scratch, sized, target
from benchmarks.queries import buyers, rows, sales

MEMORY_BYTES = 400_000_000
MEMORY_MB_MAX = 500  # for a stream or a file of any size
STREAM_BYTES, FILE_BYTES = 4_000_000_000, 1_000_000_000
SAMPLE_SECONDS = 0.005
QUERIES = {
    "join of all rows with all": "select count(*) as n, sum(a.amount * b.amount) as total"
    " from sales a join sales b on a.id = b.id",
    "group by as many keys as rows": "select count(*) as n, sum(total) as total"
    " from (select id, label, sum(amount) as total from sales group by id, label)",
    "sort of all rows": "select count(*) as n, sum(place) as total"
    " from (select row_number() over (order by amount) as place from sales)",
}


def run() -> dict:
    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="memory") as folder:
        path = os.path.join(folder, "store")
        with eau2.open(path) as store:
            store.put("buyers", buyers())
            store.put("sales", sales(rows()))
            size = store.frame("sales").bytes
            store.put("idle", b"")
        figures["open and get"] = _watched("query", path, MEMORY_BYTES, "select count(*) as n from buyers")
        for name, text in QUERIES.items():
            figures[name] = {"bytes": size, **_watched("query", path, MEMORY_BYTES, text)}
            answer = figures[name].pop("answer")[0]
            assert answer["n"] == rows(), f"{name}: {answer}"
        stream = sized(STREAM_BYTES, STREAM_BYTES // 10)
        figures["put of a stream of batches"] = _watched("put_stream", path, stream)
        file = os.path.join(folder, "rows.sor")
        written = _write_sor(file, sized(FILE_BYTES, FILE_BYTES // 10))
        figures["load of a SoR file"] = {"bytes": os.path.getsize(file), **_watched("load", path, file)}
        assert figures["load of a SoR file"]["rows"] == written, (figures["load of a SoR file"], written)
    return {"figures": figures, "targets": _targets(figures), "tables": _tables(figures)}


def _write_sor(path: str, size: int) -> int:
    """Write a SoR file of about `size` bytes, the same 50,000 lines again and again; return how many lines it has."""
    lines = 50_000
    block = "".join(
        f'<{index * 7919 % 1_000_003}><"name {index * 31 % 10_007}"><{index % 2}><{index * 0.37:.4f}>'
        f"<{'' if index % 10 == 0 else index}>\n"
        for index in range(lines)
    ).encode()
    times = -(-size // len(block))
    with open(path, "wb") as file:
        for _ in range(times):
            file.write(block)
    return lines * times


def _watched(program: str, *arguments: object) -> dict:
    """Run a program of memory_children; return what it says and the highest memory seen, in MB."""
    command = [sys.executable, "-m", "benchmarks.memory_children", program, *(str(one) for one in arguments)]
    own = total = 0
    with tempfile.TemporaryFile("w+", dir=scratch()) as output:
        process = subprocess.Popen(command, stdout=output)
        deadline = time.monotonic() + 600
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
            now = _memory(process.pid)
            own, total = max(own, now.get("RssAnon", 0)), max(total, now.get("VmRSS", 0))
            time.sleep(SAMPLE_SECONDS)
        if process.returncode != 0:
            raise RuntimeError(f"{program} ended with {process.returncode}")
        output.seek(0)
        said = json.loads(output.read())
    return {**said, "own_mb": own / 1024, "with_file_pages_mb": total / 1024}


def _memory(pid: int) -> dict[str, int]:
    """The process's memory by kind, in KiB; nothing when it has just ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            lines = [line.split() for line in file if line.startswith(("RssAnon", "VmRSS"))]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {line[0].rstrip(":"): int(line[1]) for line in lines}


def _targets(figures: dict) -> list[dict]:
    targets = [
        target(f"{name}: memory", figures[name]["own_mb"], at_most=MEMORY_MB_MAX, unit="MB")
        for name in ("put of a stream of batches", "load of a SoR file")
    ]
    # The pool is what the operators may hold; the interpreter, the libraries and batches on their way come on top.
    limit = MEMORY_BYTES / 1e6 * 2 + figures["open and get"]["own_mb"]
    worst, name = max((figures[name]["own_mb"], name) for name in QUERIES)
    return [
        *targets,
        target(f"memory of the queries, at worst {name}, at most twice the pool", worst, at_most=limit, unit="MB"),
    ]


def _tables(figures: dict) -> list[dict]:
    return [
        {
            "title": f"memory_bytes={MEMORY_BYTES:,}; a process each",
            "columns": ["", "data, MB", "seconds", "its own memory at most, MB", "with pages of files, MB"],
            "rows": [
                [
                    name,
                    one["bytes"] / 1e6 if "bytes" in one else None,
                    one["seconds"],
                    one["own_mb"],
                    one["with_file_pages_mb"],
                ]
                for name, one in figures.items()
            ],
        }
    ]
