"""A stored frame as the planner has it: its columns and its manifest, and none of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from eau2.query.source import Source
from eau2.store.nodes import MappedFrame
from eau2.values.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Absent(Source):
    """`origin`, of which other nodes have the chunks: what is planned over it reads none."""

    def __init__(self, origin: Source) -> None:
        super().__init__(origin.key, origin.version, origin.manifest, MappedFrame(()), None)
        self.origin = origin

    def batches(self, chunks: Iterable[int] | None = None) -> list[pa.RecordBatch]:
        return []

    def with_types(self, types: Mapping[str, pa.DataType]) -> Absent:
        """Return the same frame, as it would be if the columns named in `types` had those."""
        fields = [pa.field(field.name, types[field.name]) if field.name in types else field for field in self.schema]
        manifest = Manifest(pa.schema(fields), self.manifest.table)
        return Absent(Source(self.key, self.version, manifest, self.origin.mapped, None))

    def row_width(self, columns: Iterable[int]) -> int:
        """Return about how many bytes a row has in `columns`: those without a fixed width share what is left."""
        rows = max(1, self.manifest.rows)
        fixed = {index: _fixed_width(field.type) for index, field in enumerate(self.schema)}
        open_ended = [index for index, size in fixed.items() if not size]
        left = max(0, self.manifest.size // rows - sum(fixed.values()))
        share = max(1, left // max(1, len(open_ended)))
        return sum(fixed[index] or share for index in columns)


def _fixed_width(type_: pa.DataType) -> int:
    try:
        return max(1, int(type_.bit_width) // 8)
    except ValueError:  # text, lists and the like
        return 0
