"""What the page shows, as JSON has it: nodes and their figures, and queries. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eau2.cluster.epochs import FOUNDED, WHOLE
from eau2.errors import InvalidOption
from eau2.metrics.report import COUNTER
from eau2.monitor.history import STEP_SECONDS, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eau2.metrics.report import Metric, Report
    from eau2.monitor.history import History
    from eau2.monitor.source import Observation
    from eau2.query.queries import QueryReport

Document = dict[str, Any]

SPARK_POINTS = 60  # of the small charts, one a minute
CHANGES_SENT = 20
COUNTING_SECONDS = 6.0  # after a change of members until nodes say what copies are missing
TEXT_MAX = 300  # characters of a query in a list
OPERATIONS = "operations"
STORED = ("chunk_bytes", "value_bytes")
LATENCIES = {"latency_p50": "_latency_p50_seconds", "latency_p99": "_latency_p99_seconds"}  # of any door: how it ends
FIGURES = (
    "operations",
    *LATENCIES,
    "load",
    "memory",
    "stored",
    "disk_free",
    "chunks",
    "keys",
    "missing",
    "moved",
)


def overview(seen: Observation, history: History, queries: tuple[int, int, float]) -> Document:
    """Return all nodes with the few figures that tell how they are, and the sums. 20 us a node."""
    reports = {report.node: report for report in seen.reports}
    nodes: list[Document] = []
    for member in seen.members:
        report = reports.get(member.name)
        figures = None if report is None else _figures(report, history)
        nodes.append(
            {
                "name": member.name,
                "state": member.state,
                "since": member.since,
                "source": member.source,
                "age": None if report is None else report.age_seconds,
                "values": figures and [figures[name] for name in FIGURES],
            }
        )
    begun, running, seconds = queries
    totals = {**seen.totals, "operations": _sum(node["values"] and node["values"][0] for node in nodes)}
    for name in LATENCIES:
        totals[name] = _worst(node["values"] and node["values"][FIGURES.index(name)] for node in nodes)
    return {
        "time": seen.time,
        "took": seen.took_seconds,
        "troubles": seen.troubles,
        "counted_here": seen.counted_here,
        "figures": FIGURES,
        "nodes": nodes,
        "changes": [{"time": change.time, "why": change.why} for change in seen.changes[-CHANGES_SENT:]],
        "totals": totals,
        "server": _figures(seen.server, history) | {"answer": _value(seen.server, "answer_seconds")},
        "repair": {
            "missing": seen.totals.get("copies_missing", 0),
            "counting": _is_counting(seen),
            "copied": history.summed("copied"),
            "copied_bytes": history.summed("copied_bytes"),
            "bytes_per_second": _sum(history.latest(name, "copied_bytes") for name in reports),
        },
        "queries": {"begun": begun, "running": running, "seconds": seconds},
    }


def sparks(seen: Observation, history: History) -> Document:
    """Return operations a second of each node over the hour, one a minute, and of all together every ten seconds; and
    how soon requests were answered at the slowest door, while there were any."""
    nodes: dict[str, list[float | None]] = {}
    total: list[float | None] = [None] * STEPS
    latencies: dict[str, list[float | None]] = {name: [None] * STEPS for name in LATENCIES}
    for report in seen.reports:
        series = history.series(report.node, OPERATIONS)
        nodes[report.node] = [_rounded(value) for value in _coarser(series, STEPS // SPARK_POINTS)]
        total = _added([total, series])
        for name, ending in LATENCIES.items():
            doors = [each.name.removesuffix(ending) for each in report.metrics if each.name.endswith(ending)]
            each = [_while_asked(history, report.node, door, ending) for door in doors]
            latencies[name] = [_worst(values) for values in zip(latencies[name], *each, strict=True)]
    return {
        "end": seen.time,
        "step": STEP_SECONDS * STEPS // SPARK_POINTS,
        "nodes": nodes,
        "total": {
            "step": STEP_SECONDS,
            "operations": [_rounded(value) for value in total],
            **{name: [_rounded(value) for value in values] for name, values in latencies.items()},
        },
    }


def one_node(seen: Observation, history: History, name: str) -> Document | None:
    """Return all figures of one node with their hour; "" is the server itself. None where there is no such node."""
    report = next((each for each in (*seen.reports, seen.server) if each.node == name), None)
    member = next((each for each in seen.members if each.name == name), None)
    if report is None and member is None:
        return None
    metrics = () if report is None else report.metrics
    return {
        "name": name,
        "state": "live" if member is None else member.state,
        "since": None if member is None else member.since,
        "source": "" if member is None else member.source,
        "age": None if report is None else report.age_seconds,
        "end": seen.time,
        "step": STEP_SECONDS,
        "metrics": [
            {
                "name": metric.name,
                "value": _number(metric.value),
                "rate": history.latest(name, metric.name) if metric.kind == COUNTER else None,
                "unit": metric.unit,
                "help": metric.help,
                "kind": metric.kind,
                "history": [_rounded(value) for value in history.series(name, metric.name)],
            }
            for metric in metrics
        ],
    }


def query_list(running: Sequence[QueryReport], recent: Sequence[QueryReport], *, now: float) -> Document:
    """Return queries without their plans."""
    return {"time": now, "running": [_brief(query) for query in running], "recent": [_brief(each) for each in recent]}


def one_query(query: QueryReport) -> Document:
    """Return a query with its plan."""
    return asdict(query)


def encoded(document: Document) -> bytes:
    """Return `document` as JSON, on one line."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def number_asked(text: str, name: str, least: int, most: int) -> int:
    """Return the number that `text`, which was asked for as `name`, is. InvalidOption."""
    if not (text.isascii() and text.isdecimal() and len(text) < 15 and least <= int(text) <= most):
        raise InvalidOption(f"{name} is from {least} to {most}, not {text!r:.80}")
    return int(text)


# -- private ----------------------------------------------------------------------------------------------------------


def _is_counting(seen: Observation) -> bool:
    """Whether who is a member has changed just now: what the others miss is known when they have looked."""
    last = seen.changes[-1] if seen.changes else None
    if last is None or last.why.startswith(FOUNDED) or WHOLE in last.why:
        return False
    return seen.time - last.time < COUNTING_SECONDS


def _brief(query: QueryReport) -> Document:
    found = asdict(query)
    del found["plan"], found["moves"]
    found["text"] = query.text if len(query.text) <= TEXT_MAX else f"{query.text[: TEXT_MAX - 1]}…"
    return found


def _figures(report: Report, history: History) -> dict[str, float | None]:
    value = {metric.name: _number(metric.value) for metric in report.metrics}
    free, memory = value.get("memory_free_bytes"), value.get("memory_bytes")
    used = memory - free if memory is not None and free is not None else value.get("resident_bytes")
    return {
        "operations": _rounded(history.latest(report.node, OPERATIONS)),
        **{name: _latency(report.metrics, ending) for name, ending in LATENCIES.items()},
        "load": value.get("load"),
        "memory": used,
        "stored": _sum(value.get(name) for name in STORED),
        "disk_free": value.get("disk_free_bytes"),
        "chunks": value.get("chunks"),
        "keys": value.get("keys"),
        "missing": value.get("copies_missing"),
        "moved": _rounded(history.latest(report.node, "bytes_moved")),
    }


def _latency(metrics: Iterable[Metric], ending: str) -> float | None:
    """Return that of the slowest door, in seconds."""
    return _worst(metric.value for metric in metrics if metric.name.endswith(ending))


def _while_asked(history: History, node: str, door: str, ending: str) -> list[float | None]:
    """Return a percentile of `door` over the hour, without the times in which it was as it had been, for nobody asked
    anything."""
    asked = history.series(node, f"{door}_requests")
    found = history.series(node, f"{door}{ending}")
    return [value if rate else None for value, rate in zip(found, asked, strict=True)]


def _value(report: Report, name: str) -> float | None:
    return next((_number(metric.value) for metric in report.metrics if metric.name == name), None)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _rounded(value: float | None) -> float | None:
    """Return about six digits of `value`: what a chart has pixels for."""
    return None if value is None else float(f"{value:.6g}")


def _added(several: Sequence[Sequence[float | None]]) -> list[float | None]:
    return [_sum(values) for values in zip(*several, strict=True)]


def _coarser(values: Sequence[float | None], step: int) -> list[float | None]:
    found: list[float | None] = []
    for start in range(0, len(values), step):
        known = [value for value in values[start : start + step] if value is not None]
        found.append(sum(known) / len(known) if known else None)
    return found
