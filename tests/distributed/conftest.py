from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow.parquet as pq
import pytest
from tests.distributed.nodes import Cluster
from tests.distributed.tpch import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from eau2.query.engine import Engine

SCALE = "0.1"


class MakeCluster(Protocol):
    def __call__(self, count: int, memory_bytes: int = 256 << 20, **options: int) -> Cluster: ...


@pytest.fixture
def make_cluster(shared_engine: Engine) -> Iterator[MakeCluster]:
    """Makes several nodes in this process, ended after the test."""
    made: list[Cluster] = []

    def make(count: int, memory_bytes: int = 256 << 20, **options: int) -> Cluster:
        made.append(Cluster(shared_engine, count, memory_bytes, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="session")
def tpch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """The tables of TPC-H: 600,000 lines of orders."""
    folder = tmp_path_factory.mktemp("tpch")
    program = Path(sys.executable).with_name("tpchgen-cli")
    command = [str(program), "parquet", "--scale-factor", SCALE, "--output-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {name: pq.read_table(folder / f"{name}.parquet") for name in TABLES}
