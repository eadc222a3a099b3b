"""`python -m benchmarks [names...] [--quick]`: run the benchmarks, print their tables, keep the results.

Without names, all of them. The results go to benchmarks/results/NAME.json, and from there into docs/benchmarks.md and
docs/images; quick ones (small data, seconds each) go to the scratch directory, and change neither.
`--document` only writes document and images again from the results that are there.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import charts, document
from benchmarks.document import NAMES, RESULTS, load_results
from benchmarks.measure import OTHER_CORES_MAX, Others, loop_milliseconds, quick, scratch

ROOT = Path(__file__).parent.parent
LIBRARIES = (
    *("eau2", "apsw", "datafusion", "numpy", "pyarrow", "xxhash", "loky"),
    *("diskcache", "duckdb", "lmdb", "pandas", "polars", "redis"),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run the benchmarks and keep the results."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when none is given")
    parser.add_argument("--quick", action="store_true", help="small data: shows that all runs, not how fast")
    parser.add_argument("--document", action="store_true", help="only write docs/benchmarks.md from the results")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(NAMES)}")
    if asked.quick:
        os.environ["EAU2_BENCH_QUICK"] = "1"
    # Child processes run `python -m benchmarks.NAME`, wherever this was started from.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    failed = [] if asked.document else [name for name in asked.names or NAMES if not _keep(name)]
    if not quick():
        results = load_results()
        charts.draw(results, ROOT / "docs" / "images")
        document.write(results, ROOT / "docs" / "benchmarks.md")
    return 1 if failed else 0


def _keep(name: str) -> bool:
    """Run one benchmark, print it and write its result. Its failure is printed, and the others still run."""
    console = Console()
    console.rule(f"[bold]{name}")
    loop, others, loaded, start = loop_milliseconds(), Others(), os.getloadavg(), time.monotonic()
    try:
        result = importlib.import_module(f"benchmarks.{name}").run()
    except Exception:
        console.print_exception(max_frames=6)
        return False
    result = {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "seconds": round(time.monotonic() - start, 1),
        "load_average": {"before": loaded, "after": os.getloadavg()},
        "loop_ms": {"before": round(loop, 1), "after": round(loop_milliseconds(), 1)},
        "other_cores": round(others.cores(), 2),
        "machine": _machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        **result,
    }
    folder = Path(scratch()) if quick() else RESULTS
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    _print(console, result)
    return True


def _print(console: Console, result: dict) -> None:
    for table in result.get("tables", ()):
        shown = Table(*(str(column) for column in table["columns"]), title=table["title"], title_justify="left")
        for column in shown.columns[1:]:
            column.justify = "right"
        for row in table["rows"]:
            shown.add_row(*(document.number(cell) for cell in row))
        console.print(shown)
    for aim in result.get("targets", ()):
        mark = "[green]met   [/]" if aim["met"] else "[red]missed[/]"
        console.print(f"{mark} {document.sentence(aim)}", highlight=False)
    before, after = (load[0] for load in result["load_average"].values())
    noise = " [red]others were busy: repeat[/]" if result["other_cores"] > OTHER_CORES_MAX else ""
    load = f"load average {before:.2f} before, {after:.2f} after; others used {result['other_cores']:.2f} cores"
    load += "; a fixed loop took {before} ms before, {after} after".format(**result["loop_ms"])
    console.print(f"{result['seconds']:.0f} s; {load}{noise}\n", highlight=False)


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")


def _machine() -> dict[str, object]:
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "processor": model,
        "kernel": platform.release(),
        "file_system": _file_system(),
    }


def _file_system() -> str:
    mounts = [part for part in psutil.disk_partitions(all=True) if scratch().startswith(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    try:
        server = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
        found["redis-server"] = next(word[2:] for word in server.split() if word.startswith("v="))
    except FileNotFoundError:
        found["redis-server"] = "absent: benchmarks/install_peers.sh"
    return found


if __name__ == "__main__":
    sys.exit(main())
