"""bench: how fast stores of so many nodes are on this machine, and that they lose nothing when nodes die."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.exits import printable
from eau2.cli.screen import counted, grid, seconds_text, size_text
from eau2.errors import Corrupt, InvalidOption

if TYPE_CHECKING:
    from eau2.programs.kvload import Measured

LOSSES_SHOWN_MAX = 10


def bench(
    call: Call,
    what: Annotated[Literal["kv"], typer.Argument(metavar="kv", help="What to measure.", show_default=False)],
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="N,...", help="How many nodes: a store is made for each.")
    ] = "1,2,4,8",
    clients: Annotated[
        str, typer.Option("--clients", metavar="N", help="How many threads; `same`: as many as nodes.")
    ] = "same",
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="How long, on each store.")] = 5.0,
    fail: Annotated[
        float, typer.Option("--fail", metavar="P", help="Each second each node dies with this probability.")
    ] = 0.0,
    replicas: Annotated[
        int, typer.Option("--replicas", metavar="N", help="Copies, where there are as many nodes.")
    ] = 2,
    keys: Annotated[int, typer.Option("--keys", metavar="N", help="Of all clients together.")] = 10_000,
    value_bytes: Annotated[int, typer.Option("--value-bytes", metavar="N", help="The size of each value.")] = 100,
    reads: Annotated[float, typer.Option("--reads", metavar="SHARE", help="Of the operations; others write.")] = 0.5,
) -> None:
    """Measure small values on many nodes.

    Clients create, read, update and delete keys of their own in temporary stores. Exit 3 when anything that was
    acknowledged is lost.
    """
    from eau2.programs.kvload import Load, measure  # with Arrow's kernels: `eau2 keys` does without

    loads = [
        Load(
            nodes=count,
            clients=count if clients == "same" else _number(clients, "--clients"),
            seconds=seconds,
            replicas=replicas,
            keys=keys,
            value_bytes=value_bytes,
            reads=reads,
            fail=fail,
        )
        for count in (_number(text, "--nodes") for text in nodes.split(","))
    ]
    found = [measure(load) for load in loads]
    call.answer([_document(one) for one in found], lambda console: _shown(console, found))
    for one in found:
        if one.losses or one.faults:
            raise _failure(one)


def _number(text: str, option: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InvalidOption(f"{option} takes numbers from 1, not {text!r}")
    return number


def _failure(found: "Measured") -> Corrupt:
    on = f"on {counted(found.load.nodes, 'node')}"
    if not found.losses:
        return Corrupt(f"{on}: {found.faults[0]}")
    first = found.losses[0]
    more = f", and {len(found.losses) - 1} more" if len(found.losses) > 1 else ""
    return Corrupt(f"{on}, {first.key!r} was lost (on {' and '.join(first.nodes)}): {first.what}{more}")


def _document(found: "Measured") -> dict[str, object]:
    document: dict[str, object] = dataclasses.asdict(found)
    asked = document.pop("load")
    return {"asked": asked, "operations_a_second": round(found.operations / found.seconds, 1), **document}


def _shown(console: Console, found: "list[Measured]") -> RenderableType:
    parts: list[RenderableType] = [_rates(console, found), Text(""), _latencies(console, found), Text("")]
    if any(one.load.fail for one in found):
        parts += [_deaths(console, found), Text("")]
    return Group(*parts, *(_verdict(one) for one in found))


def _rates(console: Console, found: "list[Measured]") -> RenderableType:
    columns = ("nodes", "clients", "operations/s", "keys/node", "max/mean", "requests/node", "max/mean")
    table = grid(console, *columns, right=columns)
    for one in found:
        table.add_row(
            str(one.load.nodes),
            str(one.load.clients),
            f"{one.operations / one.seconds:,.0f}",
            *_spread(one.keys),
            *_spread(one.requests),
        )
    return table


def _spread(counts: dict[str, int]) -> tuple[str, str]:
    mean = sum(counts.values()) / len(counts)
    return f"{mean:,.0f}", f"{max(counts.values()) / mean:.2f}" if mean else ""


def _latencies(console: Console, found: "list[Measured]") -> RenderableType:
    numbers = ("nodes", "count", "p50", "p95", "p99", "max")
    table = grid(console, "nodes", "operation", *numbers[1:], right=numbers)
    for one in found:
        nodes = str(one.load.nodes)
        for kind, latency in one.latency.items():
            times = (latency.p50, latency.p95, latency.p99, latency.max)
            table.add_row(nodes, kind, f"{latency.count:,}", *map(_latency_text, times))
            nodes = ""
    return table


def _latency_text(seconds: float) -> str:
    """
    >>> _latency_text(0.0000123), _latency_text(0.00123), _latency_text(2)
    ('12 us', '1.23 ms', '2.00 s')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else seconds_text(seconds)


def _deaths(console: Console, found: "list[Measured]") -> RenderableType:
    columns = ("nodes", "deaths", "keys copied", "chunks", "bytes", "repaired after", "unknown", "refused")
    table = grid(console, *columns, right=columns)
    for one in found:
        table.add_row(
            str(one.load.nodes),
            str(one.deaths),
            f"{one.copied['keys']:,}",
            f"{one.copied['chunks']:,}",
            size_text(one.copied["bytes"]),
            seconds_text(one.repair_seconds),
            f"{one.unknown:,}",
            f"{one.refused:,}",
        )
    return table


def _verdict(found: "Measured") -> RenderableType:
    head = f"{counted(found.load.nodes, 'node')}: {counted(found.keys_read, 'key')} read again: "
    if not found.losses and not found.faults:
        return Text.assemble(head, ("nothing acknowledged was lost", "green"))
    lines = [f"{loss.key} on {' and '.join(loss.nodes)}: {loss.what}" for loss in found.losses] + list(found.faults)
    shown = [Text.assemble(("  ✗ ", "red"), printable(line)) for line in lines[:LOSSES_SHOWN_MAX]]
    if len(lines) > LOSSES_SHOWN_MAX:
        shown.append(Text(f"  ... and {len(lines) - LOSSES_SHOWN_MAX:,} more; --json has all"))
    return Group(Text.assemble(head, (f"{counted(len(lines), 'fault')}", "bold red")), *shown)
