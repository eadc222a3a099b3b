"""Reports as Prometheus reads them: its text format, version 0.0.4."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from eau2.metrics.report import COUNTER, GAUGE, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.metrics.report import Report

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "eau2_"
_AGE = "report_age_seconds"
_AGE_HELP = "Seconds since the node said what its other figures are."


def exposition(reports: Sequence[Report]) -> str:
    """Return all figures of `reports`, each with its node as a label: `eau2_gets_total{node="node-0"} 12`.

    Counters end with `_total`. A figure that a node has twice is told once; one that is a counter on one node and a
    gauge on another is `untyped`. Pure; 1 us a figure.
    """
    families: dict[str, list[tuple[str, Metric]]] = {}
    told: set[tuple[str, str]] = set()
    for report in reports:
        age = Metric(_AGE, report.age_seconds, "seconds", _AGE_HELP, GAUGE)
        for metric in (age, *report.metrics):
            name = _full_name(metric)
            if (name, report.node) not in told:
                told.add((name, report.node))
                families.setdefault(name, []).append((report.node, metric))
    return "".join(_family(name, said) for name, said in families.items())


def _full_name(metric: Metric) -> str:
    total = "_total" if metric.kind == COUNTER and not metric.name.endswith("_total") else ""
    return f"{PREFIX}{metric.name}{total}"


def _family(name: str, said: list[tuple[str, Metric]]) -> str:
    kinds = {metric.kind for _, metric in said}
    lines = [f"# HELP {name} {_sentence(said[0][1])}", f"# TYPE {name} {kinds.pop() if len(kinds) == 1 else 'untyped'}"]
    lines += [f'{name}{{node="{_label(node)}"}} {_number(metric.value)}' for node, metric in said]
    return "\n".join(lines) + "\n"


def _sentence(metric: Metric) -> str:
    unit = f" [{metric.unit}]" if metric.unit and metric.unit not in metric.name.split("_") else ""
    return (metric.help + unit).replace("\\", "\\\\").replace("\n", "\\n")


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1 << 53 else repr(value)
