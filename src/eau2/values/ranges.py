"""What a chunk's columns span: least, most and null count, kept in the manifest so that queries can skip chunks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from eau2.values.key import prefix_end
from eau2.values.manifest import ColumnRange

TEXT_LENGTH_MAX = 64  # characters or bytes of a bound: long ones would make manifests large and skip no more


def column_range(column: pa.ChunkedArray) -> ColumnRange:
    """Return what `column` spans; bounds are left out for types without an order. 16 GB/s for floats, 0.8 for text."""
    nulls = column.null_count
    if nulls == len(column):
        return ColumnRange(nulls)
    if pa.types.is_float32(column.type) or pa.types.is_float64(column.type):
        return _float_range(column, nulls)
    import pyarrow.compute as pc  # here: it takes 60 ms to import, a quarter of `import eau2`

    try:
        bounds = pc.min_max(column)
    except pa.ArrowNotImplementedError:  # nested, dictionary, half float, views, intervals
        return ColumnRange(nulls)
    return _short(nulls, bounds["min"], bounds["max"])


def _float_range(column: pa.ChunkedArray, nulls: int) -> ColumnRange:
    """As `column_range`, NaN above every number as in the engine; Arrow's own kernel ignores NaN, and is slower."""
    parts = [
        np.from_dlpack(chunk.drop_null() if chunk.null_count else chunk)  # to_numpy and pa.array would import pandas
        for chunk in column.chunks
        if chunk.null_count < len(chunk)
    ]
    most = np.max([part.max() for part in parts])  # NaN when there is one
    least = np.fmin.reduce([np.fmin.reduce(part) if np.isnan(most) else part.min() for part in parts])
    bounds = pa.py_buffer(np.array([least, most], parts[0].dtype))
    return ColumnRange(nulls, *pa.Array.from_buffers(column.type, 2, [None, bounds]))


def _short(nulls: int, least: pa.Scalar, most: pa.Scalar) -> ColumnRange:
    """Cut long text to a bound that still holds: a prefix is below, the text after every text with the prefix above."""
    type_ = least.type
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        try:
            low, high = least.as_py(), most.as_py()
        except UnicodeDecodeError:  # Arrow does not look whether text is UTF-8
            return ColumnRange(nulls)
        if len(low) > TEXT_LENGTH_MAX:
            least = pa.scalar(low[:TEXT_LENGTH_MAX], type_)
        if len(high) > TEXT_LENGTH_MAX:
            end = prefix_end(high[:TEXT_LENGTH_MAX])
            if end is None:
                return ColumnRange(nulls)
            most = pa.scalar(end, type_)
    elif isinstance(least, (pa.BinaryScalar, pa.LargeBinaryScalar, pa.FixedSizeBinaryScalar)) and (
        max(len(least.as_py()), len(most.as_py())) > TEXT_LENGTH_MAX
    ):
        return ColumnRange(nulls)
    return ColumnRange(nulls, least, most)
