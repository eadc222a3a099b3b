"""Results as text: the tables of docs/benchmarks.md stand between markers, and are written from the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

NAMES = (
    *("kv", "frames", "queries", "larger_than_memory", "sor_rate", "wordcount", "rounds"),
    *("placement", "nodes", "gossip", "closing", "detection", "suspicion", "distributed", "tpch", "scaling"),
    *("doors", "flight", "watching"),
)
RESULTS = Path(__file__).parent / "results"
SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load_results() -> dict[str, dict]:
    """The results kept in benchmarks/results, in the order of NAMES."""
    paths = {name: RESULTS / f"{name}.json" for name in NAMES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def write(results: dict[str, dict], path: Path) -> None:
    """Replace what stands between the markers in the document at `path`."""
    path.write_text(filled(path.read_text(), results))


def filled(text: str, results: dict[str, dict]) -> str:
    """Return `text` with the results between its markers. A section without a result says so."""
    return SECTION.sub(lambda match: match[1] + section(match[2], results) + match[3], text)


def section(name: str, results: dict[str, dict]) -> str:
    """What stands between the markers of `name`: a benchmark, or `summary`, or `machine`."""
    if name == "summary":
        return _summary(results)
    if name == "machine":
        return _machine(results)
    if name not in results:
        return "Not measured yet: `make bench`.\n"
    return _benchmark(results[name])


def _summary(results: dict[str, dict]) -> str:
    rows = [[name, *_aim(aim)] for name, result in results.items() for aim in result.get("targets", ())]
    return _table(["", "aim", "", "measured", ""], rows)


def _machine(results: dict[str, dict]) -> str:
    if not results:
        return "Not measured yet: `make bench`.\n"
    machines = dict.fromkeys(tuple(result["machine"].items()) for result in results.values())
    lines = ["; ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine) for machine in machines]
    versions = {name: version for result in results.values() for name, version in result["versions"].items()}
    return "\n".join(
        [
            *(f"Machine: {line}." for line in lines),
            "",
            "Versions: " + ", ".join(map(" ".join, versions.items())) + ".\n",
        ]
    )


def _benchmark(result: dict) -> str:
    parts = [f"**{table['title']}**\n\n{_table(table['columns'], table['rows'])}" for table in result.get("tables", ())]
    aims = [f"* {'met' if aim['met'] else '**missed**'}: {sentence(aim)}\n" for aim in result.get("targets", ())]
    taken = (
        f"Taken {result['date'][:10]} at commit {result['commit']} in {result['seconds']:.0f} s; load average"
        f" {result['load_average']['before'][0]:.2f} before; others used {result['other_cores']:.2f} cores meanwhile.\n"
    )
    return "\n".join([*parts, *(["".join(aims)] if aims else []), taken])


def _table(columns: list[str], rows: list[list]) -> str:
    head = "| " + " | ".join(columns) + " |\n|" + "---|" + "---:|" * (len(columns) - 1) + "\n"
    return head + "".join("| " + " | ".join(number(cell) for cell in row) + " |\n" for row in rows)


def _aim(aim: dict) -> list[str]:
    unit = f" {aim['unit']}" if aim["unit"] else ""
    bound = f"{aim['bound']} {number(aim['target'])}{unit}"
    return [aim["what"], bound, number(aim["value"]) + unit, "met" if aim["met"] else "**missed**"]


def sentence(aim: dict) -> str:
    """`aim`, as measure.target makes it, in words."""
    what, bound, value, _ = _aim(aim)
    return f"{what}: {value} ({bound})"


def number(cell: object) -> str:
    """Text as it is, numbers to three digits, nothing as a dash."""
    if cell is None:
        return "–"
    if isinstance(cell, bool) or not isinstance(cell, (int, float)):
        return str(cell)
    if cell == 0 or abs(cell) >= 100:
        return f"{float(f'{cell:.3g}') if abs(cell) >= 1000 and isinstance(cell, float) else cell:,.0f}"
    return f"{cell:.3g}"
