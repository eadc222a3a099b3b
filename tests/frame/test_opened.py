import gc
import os
from pathlib import Path

import pytest
from tests.until import until

import eau2


def mapped_and_removed():
    """Chunk files that have no name any more and still take disk space, because this process maps them."""
    maps = Path("/proc/self/maps").read_text()
    return {line.split()[5] for line in maps.splitlines() if ".arrow (deleted)" in line}


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="what a process maps is only shown by Linux")
def test_a_deleted_frame_that_nobody_holds_takes_no_disk_space(tmp_path):
    gc.collect()
    before = mapped_and_removed()
    with eau2.open(tmp_path / "store") as store:
        store.put("t", {"n": list(range(10_000))})
        store.sql("select sum(n) from t").to_arrow()
        held = store.frame("t")
        store.delete("t")
        assert len(mapped_and_removed() - before) == 1
        assert held.rows == 10_000
        del held
        gc.collect()
        until(lambda: mapped_and_removed() <= before)
