"""Sail's local cluster: four workers of one task slot each, over the stored files."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from benchmarks.peers import NODES, serve
from benchmarks.questions import QUERIES

if TYPE_CHECKING:
    import pyarrow as pa

# Read when the library is loaded. As many partitions as there are slots: the guide on performance asks for that.
SETTINGS = {
    "SAIL_MODE": "local-cluster",
    "SAIL_CLUSTER__WORKER_INITIAL_COUNT": str(NODES),
    "SAIL_CLUSTER__WORKER_MAX_COUNT": str(NODES),
    "SAIL_CLUSTER__WORKER_TASK_SLOTS": "1",
    "SAIL_EXECUTION__DEFAULT_PARALLELISM": str(NODES),
}


def main() -> None:
    os.environ.update(SETTINGS)
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    folder = sys.argv[1]
    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    try:
        _, port = server.listening_address
        spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
        for name in ("buyers", "sales"):
            spark.read.parquet(f"{folder}/{name}").createOrReplaceTempView(name)

        def answer(name: str) -> pa.Table:
            return spark.sql(QUERIES[name]).toArrow()

        serve(answer)
        spark.stop()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
