"""Joins and groups of many times the memory that a node is allowed, on nodes that are processes of their own."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.remote.clusters import ProcessCluster

pytestmark = [pytest.mark.slow, pytest.mark.long]
NAMES = ["node-0", "node-1", "node-2"]
MEMORY = 64 << 20
TIMES = 12
ROWS = TIMES * MEMORY // 16  # of two numbers each
PEAK_MAX = 6 * MEMORY  # the engine has some 200 MB besides; a node's part of both sides is 512 MB


class Peak:
    """Looks how much memory processes use that is no file's, until it is left."""

    def __init__(self, cluster):
        self._pids = {name: cluster.running[name].pid for name in NAMES}
        self.before = {name: self._now(name) for name in NAMES}
        self.bytes = dict(self.before)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _now(self, name):
        status = Path(f"/proc/{self._pids[name]}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) << 10

    def _run(self):
        while not self._ended.wait(0.01):
            for name in NAMES:
                self.bytes[name] = max(self.bytes[name], self._now(name))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    @property
    def more(self):
        return max(self.bytes[name] - self.before[name] for name in NAMES)


def test_a_join_and_groups_of_twelve_times_the_memory_of_a_node_finish_within_it(processes, tmp_path):
    numbers = np.random.default_rng(5).permutation(ROWS)
    with (
        ProcessCluster(processes, tmp_path, NAMES, replicas=1, memory_bytes=MEMORY) as cluster,
        cluster.opener()() as store,
    ):
        store.put("a", pa.table({"k": numbers, "v": numbers % 97}))
        store.put("b", pa.table({"k": numbers[::-1], "w": numbers % 89}))
        assert store.frame("a").bytes >= TIMES * MEMORY
        store.sql("select count(*) as n from a where v > 100").to_arrow()  # the engine is loaded then
        with Peak(cluster) as joining:
            query = "select count(*) as n, sum(v * w) as s from a join b on a.k = b.k"
            (found,) = store.sql(query).to_arrow().to_pylist()
        assert found == {"n": ROWS, "s": int((numbers[::-1] % 97 * (numbers % 89)).sum())}
        with Peak(cluster) as grouping:
            query = "select count(*) as n, sum(s) as s from (select k, sum(v) as s, count(*) as c from a group by k) g"
            (found,) = store.sql(query).to_arrow().to_pylist()
        assert found == {"n": ROWS, "s": int((numbers % 97).sum())}
        said = [f"{what} {peak.more >> 20} MB" for what, peak in (("join", joining), ("groups", grouping))]
        print(f"memory {MEMORY >> 20} MB, each side {ROWS * 16 >> 20} MB; at most above what it was: {', '.join(said)}")
        assert joining.more < PEAK_MAX
        assert grouping.more < PEAK_MAX
