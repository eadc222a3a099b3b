"""Daft on a Ray cluster of four nodes on this machine, the tables kept in Ray's object store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import daft
import ray
from ray.cluster_utils import Cluster

from benchmarks.peers import NODES, serve
from benchmarks.questions import QUERIES

if TYPE_CHECKING:
    import pyarrow as pa

OBJECT_STORE_BYTES = 1_500_000_000  # a node


def main() -> None:
    folder = sys.argv[1]
    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
        daft.set_runner_ray()
        buyers, sales = (daft.read_parquet(f"{folder}/{name}").collect() for name in ("buyers", "sales"))

        def answer(name: str) -> pa.Table:
            return daft.sql(QUERIES[name], buyers=buyers, sales=sales).to_arrow()

        serve(answer)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
