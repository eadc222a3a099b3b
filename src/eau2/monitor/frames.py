"""One frame for the page: columns, first rows, and each chunk with what its manifest knows and where it is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from eau2.frame.display import cell, python_values, type_text
from eau2.monitor.keys import copies_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from eau2.frame.frame import Frame
    from eau2.query.source import Source
    from eau2.store.store import Store
    from eau2.values.manifest import Manifest

PREVIEW_ROWS = 20
COLUMNS_MAX = 60
CHUNKS_MAX = 100  # of one page
CELL_MAX = 200  # characters


def frame_page(store: Store, key: str) -> dict[str, Any]:
    """Return the frame under `key`. Reads its first chunk. KeyMissing, WrongKind, Corrupt."""
    frame = store.frame(key)
    source = _source(frame)
    manifest = source.manifest
    rows = frame.head(PREVIEW_ROWS).to_arrow()
    return {
        "key": key,
        "version": frame.version,
        "rows": frame.rows,
        "bytes": frame.bytes,
        "chunks": len(manifest.chunk_ids),
        "columns": [{"name": field.name, "type": type_text(field.type)} for field in frame.schema],
        "preview": [_cells(column) for column in rows.columns[:COLUMNS_MAX]],
        "nodes": _nodes(source, _homes(store, manifest), store.nodes),
        "copies": copies_of(store, key),
    }


def chunk_page(store: Store, key: str, first: int) -> dict[str, Any]:
    """Return CHUNKS_MAX chunks of the frame under `key`, from `first` on. Errors as `frame_page`."""
    source = _source(store.frame(key))
    manifest = source.manifest
    count = len(manifest.chunk_ids)
    some = range(first, min(count, first + CHUNKS_MAX))
    table = manifest.table.slice(first, len(some))
    ranges = [_ranges(table, index) for index in range(min(len(manifest.schema), COLUMNS_MAX))]
    homes = _homes(store, manifest, some)
    chunks = []
    for at, index in enumerate(some):
        chunks.append(
            {
                "index": index,
                "id": manifest.chunk_ids[index],
                "rows": manifest.chunk_rows[index],
                "bytes": manifest.chunk_sizes[index],
                "homes": homes[at],
                "place": source.places[index] if source.places else "",
                "columns": [[column[at] for column in known] for known in ranges],
            }
        )
    return {"key": key, "version": source.version, "first": first, "count": count, "chunks": chunks}


# -- private ----------------------------------------------------------------------------------------------------------


def _source(frame: Frame) -> Source:
    source = frame.source
    assert source is not None  # what is under a key is stored
    return source


def _homes(store: Store, manifest: Manifest, some: Sequence[int] | None = None) -> list[tuple[str, ...]]:
    """Return the live homes of chunks, by default of all; of a served store those they were assigned to."""
    chunks = range(len(manifest.chunk_ids)) if some is None else some
    assigned, ids = manifest.chunk_homes, manifest.chunk_ids
    return [store.node.chunk_homes(ids[index], assigned[index]) or assigned[index] for index in chunks]


def _nodes(source: Source, homes: Sequence[tuple[str, ...]], live: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return of how many chunks each node is a live home, and how many were mapped there when they were opened."""
    held: Counter[str] = Counter(name for names in homes for name in names)
    places: Counter[str] = Counter(source.places or (live * len(homes) if len(live) == 1 else ()))
    if not held and len(live) == 1:
        held[live[0]] = len(homes)
    names = list(dict.fromkeys((*live, *held, *places)))
    return [
        {"name": name, "held": held[name], "read": places[name], "live": name in live}
        for name in names
        if held[name] or places[name]
    ]


def _ranges(table: pa.Table, index: int) -> tuple[list[object], list[str], list[str]]:
    nulls: list[object] = table.column(f"nulls:{index}").to_pylist()
    name = f"min:{index}"
    if name not in table.schema.names:
        unknown = [""] * table.num_rows
        return nulls, unknown, unknown
    return nulls, _cells(table.column(name)), _cells(table.column(f"max:{index}"))


def _cells(column: pa.ChunkedArray) -> list[str]:
    texts = map(cell, python_values(column))
    return [text if len(text) <= CELL_MAX else f"{text[: CELL_MAX - 1]}…" for text in texts]
