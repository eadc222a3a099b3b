"""Word count of texts whose words follow Zipf's law: eau2 against Polars, from the same file."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import polars

import eau2
from benchmarks.measure import interleaved, scratch, sized, target
from eau2.demo import data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = (sized(20_000_000, 1_000_000), sized(100_000_000, 2_000_000), sized(200_000_000, 3_000_000))
RATIO_MIN = 1.0  # of the rate of the faster of Polars' two ways
BLANKS = r"[^ \t\n\v\f\r]+"


def run() -> dict:
    sizes = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=scratch(), prefix="wordcount") as folder:
            text = data.make(folder, users=data.LINUS + 1, projects=2, commits=600, text_bytes=size).text
            sizes[str(size)] = _one_size(text)
    figures = {"sizes": sizes}
    return {"figures": figures, "targets": _targets(sizes), "tables": [_table(sizes)]}


def ways(text: Path) -> dict[str, Callable[[], int]]:
    """From a name to a function that counts the words of `text` and returns how many are different."""
    lines = polars.col("line")
    words = polars.scan_lines(text).select(lines.str.split(" ").explode(empty_as_null=False).alias("word"))
    exact = polars.scan_lines(text).select(lines.str.extract_all(BLANKS).explode(empty_as_null=False).alias("word"))

    def counted(frame: polars.LazyFrame, engine: str) -> int:
        return frame.group_by("word").len().collect(engine=engine).height

    return {
        "eau2": lambda: eau2.wordcount(text).distinct,
        "eau2, 1 thread": lambda: eau2.wordcount(text, threads=1).distinct,
        "Polars, streaming, split at one space": lambda: counted(words, "streaming"),
        "Polars, in memory, split at one space": lambda: counted(words, "in-memory"),
        "Polars, streaming, split at all white space": lambda: counted(exact, "streaming"),
    }


def _one_size(text: Path) -> dict:
    different = {name: way() for name, way in ways(text).items()}
    assert len(set(different.values())) == 1, different
    times = interleaved({name: lambda way=way: bool(way()) for name, way in ways(text).items()})
    size = text.stat().st_size
    return {
        "bytes": size,
        "different_words": different["eau2"],
        "ways": {name: {**timing.figures(), "bytes_a_second": size / timing.median} for name, timing in times.items()},
    }


def _targets(sizes: dict[str, dict]) -> list[dict]:
    found = []
    for measured in sizes.values():
        seconds = {name: way["seconds"] for name, way in measured["ways"].items()}
        best = min(value for name, value in seconds.items() if name.startswith("Polars"))
        what = f"rate of word count to Polars' best, {measured['bytes'] / 1e6:.0f} MB"
        found.append(target(what, best / seconds["eau2"], at_least=RATIO_MIN))
    return found


def _table(sizes: dict[str, dict]) -> dict:
    columns = ["MB/s, median", *(f"{measured['bytes'] / 1e6:.0f} MB of text" for measured in sizes.values())]
    names = next(iter(sizes.values()))["ways"]
    rows = [[name, *(m["ways"][name]["bytes_a_second"] / 1e6 for m in sizes.values())] for name in names]
    return {"title": "Word count of a file", "columns": columns, "rows": rows}
