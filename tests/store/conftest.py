"""Nodes in temporary directories, and frames to put into them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from eau2.store.node import DirectoryNode
from eau2.store.nodes import Expect, Kind, Write
from eau2.values.chunk import Chunk, encode
from eau2.values.manifest import ChunkEntry, ColumnRange, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.store.nodes import Node


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "node-0"


@pytest.fixture
def node(directory: Path) -> Iterator[DirectoryNode]:
    opened = DirectoryNode(directory)
    yield opened
    opened.close()


@pytest.fixture
def other(node: DirectoryNode, directory: Path) -> Iterator[DirectoryNode]:
    """A second node over the same directory: what another process has."""
    opened = DirectoryNode(directory)
    yield opened
    opened.close()


def some_chunks(count: int, *, seed: int = 0, rows: int = 1000) -> list[Chunk]:
    return [encode(pa.table({"a": np.arange(rows) + (seed * 1000 + index) * rows})) for index in range(count)]


def manifest_of(chunks: list[Chunk]) -> bytes:
    entries = [ChunkEntry(chunk.id, chunk.rows, chunk.size, ("node-0",), (ColumnRange(0),)) for chunk in chunks]
    return Manifest.of(pa.schema({"a": pa.int64()}), entries).encode()


def put_frame(node: Node, key: str, chunks: list[Chunk], expect: int = Expect.ANYTHING) -> object:
    staged = tuple(node.stage(chunk) for chunk in chunks)
    return node.write([Write(key, Kind.FRAME, manifest_of(chunks), staged, expect)])[0]


def run_python(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start another process; it finds this directory's functions under `from conftest import ...`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.fixture
def frames() -> Frames:
    return Frames()


class Frames:
    """The functions above, for tests, which cannot import a conftest."""

    some_chunks: Callable[..., list[Chunk]] = staticmethod(some_chunks)
    manifest_of: Callable[[list[Chunk]], bytes] = staticmethod(manifest_of)
    put: Callable[..., object] = staticmethod(put_frame)
    run_python: Callable[..., subprocess.Popen[str]] = staticmethod(run_python)

    @staticmethod
    def files(directory: Path) -> set[str]:
        return {path.stem for path in (directory / "chunks").rglob("*.arrow")}

    @staticmethod
    def staged(directory: Path) -> list[Path]:
        return [path for path in (directory / "staging").rglob("*") if path.is_file() and path.name != "lock"]
