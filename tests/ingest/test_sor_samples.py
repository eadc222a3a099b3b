"""The table of sample files in the documentation is what eau2 reads."""

from pathlib import Path

import pyarrow as pa
import pytest

from eau2.ingest.reading import read

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT.parent / "shared" / "data" / "sor"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "sor-samples.md").read_text().splitlines()
    if ".sor |" in line
]

needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample files are not on this machine")


@needs_samples
def test_every_sample_is_in_the_table():
    assert sorted(path.name for path in SAMPLES.iterdir()) == [row[0] for row in ROWS]


@needs_samples
@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_sample_is_read_as_the_table_says(row):
    table, report = read(SAMPLES / row[0]).run(lambda schema, batches: pa.Table.from_batches(batches, schema))
    types = " ".join(type_ for _, type_ in report.columns)
    missing = [f"{name}: {table[name].null_count}" for name in table.column_names if table[name].null_count]
    found = [row[0], str(report.lines), str(report.rows), str(report.blank), str(report.bad), types, ", ".join(missing)]
    assert found == row
    assert (report.widened, report.rejects) == ((), ())
