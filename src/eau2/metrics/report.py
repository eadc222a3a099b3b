"""What a figure is, and how an object that counts something says what its fields mean.

    @dataclass(frozen=True, slots=True)
    class QueueStatistics:
        waiting: int = field(metadata=gauge("Jobs that wait now.", "jobs"))
        done: int = field(metadata=counter("Jobs done since the process began.", "jobs"))

`metrics_of` makes metrics of such an object. Everything that shows figures shows all that it is given, so a new field,
or a new class, is a change in one place.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from eau2.errors import InvalidOption, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Mapping

GAUGE = "gauge"  # a size now: it goes up and down
COUNTER = "counter"  # how many, or how much, since something began: it grows, and begins again from 0
KINDS = (GAUGE, COUNTER)
NAME_LENGTH_MAX = 100
UNIT_LENGTH_MAX = 40
HELP_LENGTH_MAX = 300
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_UNIT = re.compile(r"[a-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_DESCRIBED = "eau2.metric"


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


class _Described(NamedTuple):
    unit: str
    help: str
    kind: str


def gauge(help: str, unit: str = "") -> Mapping[str, object]:  # as Prometheus calls it
    """Return the `metadata=` of a field that is a size now."""
    return {_DESCRIBED: _Described(unit, help, GAUGE)}


def counter(help: str, unit: str = "") -> Mapping[str, object]:
    """Return the `metadata=` of a field that only grows."""
    return {_DESCRIBED: _Described(unit, help, COUNTER)}


def metrics_of(statistics: Any, *, prefix: str = "") -> tuple[Metric, ...]:
    """Return the described fields of `statistics`, a dataclass, in their order; their names begin with `prefix`.

    A field that is None is not known here, and is left out. About 0.5 us a field.
    """
    return tuple(
        Metric(prefix + name, float(value), *described)
        for name, described in _described_fields(statistics.__class__)
        if (value := getattr(statistics, name)) is not None
    )


def names_of(kind: type) -> frozenset[str]:
    """Return the names of the figures that objects of the dataclass `kind` have."""
    return frozenset(name for name, _ in _described_fields(kind))


@cache
def _described_fields(kind: type) -> tuple[tuple[str, _Described], ...]:
    described = ((field.name, field.metadata.get(_DESCRIBED)) for field in fields(kind))
    return tuple((name, found) for name, found in described if found is not None)


def checked_metric(
    name: object, value: object, *, unit: object = "", help: object = "", kind: object = GAUGE
) -> Metric:
    """Return the figure that a user describes so. InvalidOption for what is no name, unit, sentence or kind;
    InvalidValue for what is no finite number, or for a counter below 0."""
    if not isinstance(name, str) or len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        raise InvalidOption(
            f"a metric's name is snake_case of at most {NAME_LENGTH_MAX} characters, not {name!r:.120}",
            hint="for example rows_loaded",
        )
    if kind not in KINDS or not isinstance(kind, str):
        raise InvalidOption(f"{name}: kind is 'gauge' or 'counter', not {kind!r:.40}")
    if not isinstance(unit, str) or len(unit) > UNIT_LENGTH_MAX or not _UNIT.fullmatch(unit):
        raise InvalidOption(f"{name}: a unit is a word like 'bytes', not {unit!r:.60}")
    if not isinstance(help, str) or len(help) > HELP_LENGTH_MAX or _CONTROL.search(help):
        raise InvalidOption(f"{name}: help is a sentence of at most {HELP_LENGTH_MAX} characters, not {help!r:.80}")
    return Metric(name, _checked_value(name, value, kind), unit, help, kind)


def _checked_value(name: str, value: object, kind: str) -> float:
    try:
        if isinstance(value, (str, bytes, bytearray)):  # float() would read them
            raise TypeError
        number = float(value)  # type: ignore[arg-type]  # numpy's numbers are welcome too
    except (TypeError, ValueError, OverflowError):
        raise InvalidValue(f"{name}: a metric's value is a number, not {value!r:.60}") from None
    if not math.isfinite(number) or (kind == COUNTER and number < 0):
        raise InvalidValue(f"{name}: {number!r} is no value of a {kind}", hint="leave out what is not known")
    return number
