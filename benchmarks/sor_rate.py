"""SoR to typed Arrow columns in memory, against pyarrow's CSV reader on the same table as CSV."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.measure import interleaved, scratch, sized, target
from eau2.ingest.reading import read

RATIO_MIN = 0.6
BYTES = 128_000_000
SHAPES = ("plain", "spaced", "commits")


def table(shape: str, rows: int) -> list[np.ndarray]:
    """The columns of a table, as text; the same on every machine."""
    random = np.random.default_rng(sum(map(ord, shape)))
    if shape == "commits":
        return [random.integers(0, 40_000_000, rows).astype("U") for _ in range(3)]
    missing = random.random(rows) < 0.1
    return [
        random.integers(2, 1_000_000, rows).astype("U"),
        np.char.add("w", random.integers(0, 1 << 40, rows).astype("U")),
        random.integers(0, 2, rows).astype("U"),
        np.char.mod("%+.4f", random.random(rows) * 2000 - 1000),
        np.where(missing, "", random.integers(2, 1_000_000, rows).astype("U")),
    ]


def joined(columns: list[np.ndarray], before: str, between: str, after: str) -> bytes:
    text = np.char.add(before, columns[0])
    for column in columns[1:]:
        text = np.char.add(np.char.add(text, between), column)
    return (f"{after}\n".join(text.tolist()) + f"{after}\n").encode()


def written(folder: str, shape: str, size: int) -> tuple[str, str]:
    """Write the table of `shape` as SoR of about `size` bytes, and as CSV; return both paths."""
    sor, plain = os.path.join(folder, f"{shape}.sor"), os.path.join(folder, f"{shape}.csv")
    between = "> <" if shape == "spaced" else "><"
    rows = 200_000
    columns = table(shape, rows)
    quoted = [np.char.add(np.char.add('"', c), '"') if c[0][:1] == "w" else c for c in columns]
    ours, theirs = joined(quoted, "<", between, ">"), joined(columns, "", ",", "")
    times = max(1, size // len(ours))
    for path, text in ((sor, ours), (plain, theirs)):
        with open(path, "wb") as file:
            for _ in range(times):
                file.write(text)
    return sor, plain


def load_sor(path: str) -> pa.Table:
    return read(path, progress=False).run(lambda schema, batches: pa.Table.from_batches(batches, schema))[0]


def load_csv(path: str) -> pa.Table:
    return csv.read_csv(path, read_options=csv.ReadOptions(autogenerate_column_names=True))


def run() -> dict:
    """figures[shape] has the seconds, bytes and rates of both, and the ratio of CSV's time to SoR's."""
    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="sor") as folder:
        for shape in SHAPES:
            sor, plain = written(folder, shape, sized(BYTES, 2_000_000))
            assert load_sor(sor).num_rows == load_csv(plain).num_rows
            both = {
                "eau2": lambda sor=sor: load_sor(sor) and None,
                "pyarrow": lambda plain=plain: load_csv(plain) and None,
            }
            timings = interleaved(both)
            ours, theirs = timings["eau2"], timings["pyarrow"]
            figures[shape] = {
                "bytes": os.path.getsize(sor),
                "eau2": {**ours.figures(), "megabytes_per_second": os.path.getsize(sor) / 1e6 / ours.median},
                "pyarrow": {**theirs.figures(), "megabytes_per_second": os.path.getsize(plain) / 1e6 / theirs.median},
                "ratio": theirs.median / ours.median,
            }
    columns = ["table", "SoR MB", "eau2, MB/s of SoR", "pyarrow, MB/s of CSV", "rate of pyarrow's"]
    rows = [
        [shape, f["bytes"] / 1e6, f["eau2"]["megabytes_per_second"], f["pyarrow"]["megabytes_per_second"], f["ratio"]]
        for shape, f in figures.items()
    ]
    return {
        "figures": figures,
        "targets": [target("SoR to typed Arrow, of pyarrow's CSV rate", figures["plain"]["ratio"], at_least=RATIO_MIN)],
        "tables": [
            {"title": "The same table as SoR and as CSV, files in the page cache", "columns": columns, "rows": rows}
        ],
    }


if __name__ == "__main__":
    for name, figure in run()["figures"].items():
        print(f"{name:8} {figure['eau2']['megabytes_per_second']:5.0f} MB/s, ratio {figure['ratio']:.2f}")
