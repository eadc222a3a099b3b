"""What rounds of work hold does not grow. The long version is benchmarks/rounds.py."""

import pytest
from benchmarks.rounds import run

MEGABYTE = 1 << 20


@pytest.mark.slow
def test_rounds_of_a_frame_leave_memory_disk_files_and_threads_flat(tmp_path, monkeypatch):
    monkeypatch.setenv("EAU2_BENCH_DIR", str(tmp_path))
    held = run(rounds=60, frame_bytes=5_000_000)["figures"]["held"]
    start, end = held["start"], held["end"]
    assert end["resident_bytes"] < start["resident_bytes"] + 15 * MEGABYTE  # a round leaked would be 250
    assert end["disk_bytes"] <= start["disk_bytes"] + MEGABYTE // 4
    assert end["log_bytes"] < 40 * MEGABYTE
    assert end["files"] == start["files"] <= 8
    assert end["descriptors"] <= start["descriptors"]
    assert end["threads"] <= start["threads"]
    assert end["mappings"] <= start["mappings"] + 10
