"""eau2 on a cluster, asked as its peers are: see `peers`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyarrow.dataset import dataset

from benchmarks.local_cluster import cluster
from benchmarks.peers import NODES, serve
from benchmarks.questions import QUERIES

if TYPE_CHECKING:
    import pyarrow as pa


def main() -> None:
    folder = sys.argv[1]
    with cluster(NODES) as store:
        for name in ("buyers", "sales"):
            store.put(name, dataset(f"{folder}/{name}").scanner().to_reader())

        def answer(name: str) -> pa.Table:
            return store.sql(QUERIES[name]).to_arrow()

        serve(answer)


if __name__ == "__main__":
    main()
