"""What a figure is, and what a node says of itself."""

from __future__ import annotations

from dataclasses import dataclass

GAUGE = "gauge"  # a size now: it goes up and down
COUNTER = "counter"  # how many, or how much, since something began: it grows, and begins again from 0


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure. As Prometheus has it, but for the prefix `eau2_` and the ending `_total` of counters."""

    name: str  # snake_case: "chunk_bytes"
    value: float
    unit: str  # "", "bytes", "seconds", "rows", "keys", ...
    help: str  # one sentence
    kind: str  # GAUGE or COUNTER


@dataclass(frozen=True, slots=True)
class Report:
    """What one node said of itself. Its figures are all of one moment."""

    node: str
    age_seconds: float  # since the node said so
    metrics: tuple[Metric, ...]
