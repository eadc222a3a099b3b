"""One picture a benchmark, drawn from the kept results into docs/images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("agg")  # files only; no display is looked for
import matplotlib.pyplot as plt  # after the choice of where to draw

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS = {
    "eau2": "#0b6e99",
    "datafusion": "#e07b39",
    "duckdb": "#d9b310",
    "polars": "#7a5195",
    "pyarrow": "#8a8f98",
    "lmdb": "#8a8f98",
    "diskcache": "#7a5195",
    "redis": "#c0392b",
    "ring": "#e07b39",
    "jump": "#7a5195",
    "modulo": "#8a8f98",
    "data": "#c8ccd1",
}
SPARE = "#0b6e99"
NAMED = {"ring": "ring, 160 points a node", "jump": "jump hash"}
DOTS_PER_INCH = 110


def draw(results: dict[str, dict], folder: Path) -> None:
    """Write a picture for each result that has one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        if name in _DRAWN:
            figure = _DRAWN[name](result["figures"])
            # Without the date and version that matplotlib adds, the same results give the same file.
            figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH, metadata={"Software": None})
            plt.close(figure)


def _bars(axes: Axes, groups: dict[str, dict[str, float]]) -> None:
    """Horizontal bars: a group a row, a colour for each thing that is compared."""
    peers = list(dict.fromkeys(peer for group in groups.values() for peer in group))
    height = 0.8 / len(peers)
    for index, peer in enumerate(peers):
        places = [row + index * height for row, group in enumerate(groups.values()) if peer in group]
        values = [group[peer] for group in groups.values() if peer in group]
        axes.barh(places, values, height, label=peer, color=COLOURS.get(peer, SPARE))
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(groups))], list(groups))
    axes.set_ylim(len(groups) - 0.2, -height)  # the first group on top
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _legend_above(figure: plt.Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)


def _kv(figures: dict) -> plt.Figure:
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.6), sharey=True, layout="constrained")
    for axes, (flush, operations) in zip(panels, figures.items(), strict=True):
        _bars(axes, {name: {peer: one["per_second"] for peer, one in row.items()} for name, row in operations.items()})
        axes.set_xscale("log")
        axes.set_xlim(left=100)
        axes.set_title(f'flush="{flush}"', fontsize=10)
        axes.set_xlabel("operations a second, 100-byte values (more is better)")
    _legend_above(figure, panels[0])
    return figure


def _queries(figures: dict) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    seconds = figures["seconds"]
    shown = [peer for peer in next(iter(seconds.values())) if not peer.endswith(" again")]
    _bars(axes, {name: {peer: row[peer]["seconds"] * 1e3 for peer in shown} for name, row in seconds.items()})
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.set_xlabel(f"milliseconds over {figures['rows']:,} rows (less is better)")
    _legend_above(figure, axes)
    return figure


def _frames(figures: dict) -> plt.Figure:
    figure, (put, get) = plt.subplots(1, 2, figsize=(9.6, 2.8), layout="constrained")
    words = {"process": "to the system", "power": "to the medium"}
    _bars(
        put,
        {
            words[flush]: {name: one["bytes_per_second"] / 1e9 for name, one in rates.items()}
            for flush, rates in figures["put"].items()
        },
    )
    put.set_xlabel("GB/s, writing a table (more is better)")
    _legend_above(figure, put)
    sizes = {key: f"{figures['bytes'][key] / 1e6:,.3g} MB" for key in figures["bytes"]}
    _bars(get, {sizes[key]: {"eau2": figures["get"]["first_ms"][key]} for key in sizes})
    get.axvline(5, color="black", linewidth=1, linestyle=":")
    get.set_xlabel("ms, first get in another process (less is better; aim: 5)")
    return figure


def _larger_than_memory(figures: dict) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8.4, 3.2), layout="constrained")
    rows = {name: one for name, one in figures.items() if "bytes" in one}
    _bars(axes, {name: {"data": one["bytes"] / 1e6, "memory": one["own_mb"]} for name, one in rows.items()})
    axes.set_xlabel("MB: the data, and the own memory of the process that worked on it")
    _legend_above(figure, axes)
    return figure


def _placement(figures: dict) -> plt.Figure:
    figure, panels = plt.subplots(2, 2, figsize=(9.6, 6.8), sharex=True, layout="constrained")
    titles = {
        "keys": "Keys: the fullest node's, of the mean",
        "chunks": "Chunks of a frame: the fullest node's, of the mean",
        "leave": "Keys that move when a node leaves",
        "join": "Keys that move when a node joins",
    }
    for axes, (what, title) in zip(panels.flat, titles.items(), strict=True):
        for peer, rows in reversed(figures["balance"].items()):  # eau2 last, on top
            nodes = [int(count) for count in rows]
            axes.plot(
                nodes,
                [row[what] for row in rows.values()],
                color=COLOURS[peer],
                label=NAMED.get(peer, peer),
                linewidth=2.4 if peer == "eau2" else 1.5,
                marker="o",
                markersize=4 if peer == "eau2" else 2.5,
            )
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_xticks(nodes, [f"{count:,}" for count in nodes], fontsize=8)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        if what in ("leave", "join"):
            least = [1 / (count + (what == "join")) for count in nodes]
            axes.plot(nodes, least, color="black", linewidth=1, linestyle=":", label="least possible")
            axes.set_yscale("log")
            axes.set_yticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
            axes.minorticks_off()
            axes.set_xlabel("nodes")
        else:
            axes.set_ylim(0.98, 1.46)
    handles, labels = panels[1, 0].get_legend_handles_labels()
    order = [3, 2, 1, 0, 4]
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside upper center",
        ncols=5,
        fontsize=9,
        frameon=False,
    )
    return figure


def _gossip(figures: dict) -> plt.Figure:
    figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.4), layout="constrained")
    what = {
        "rounds until all nodes know a report": lambda found: found["rounds"]["most"],
        "kB that a node sends a second": lambda found: found["bytes_per_second"]["mean"] / 1e3,
        "age of what a node knows, s (99 %)": lambda found: found["age_seconds"]["p99"],
    }
    for axes, (title, value) in zip(panels, what.items(), strict=True):
        for loss, rows in figures["by_loss"].items():
            nodes = [int(count) for count in rows]
            label = f"{float(loss):.0%} of messages lost" if float(loss) else "none lost"
            colour = COLOURS["ring"] if float(loss) else COLOURS["eau2"]
            axes.plot(nodes, [value(found) for found in rows.values()], marker="o", color=colour, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log")
        axes.set_xticks(nodes, [f"{count:,}" for count in nodes], fontsize=8)
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("nodes")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    _legend_above(figure, panels[0])
    return figure


_DRAWN = {
    "kv": _kv,
    "queries": _queries,
    "frames": _frames,
    "larger_than_memory": _larger_than_memory,
    "placement": _placement,
    "gossip": _gossip,
}
