import datetime
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.values.ranges import TEXT_LENGTH_MAX, column_range


def range_of(values, type_=None, *, cut=None):
    array = pa.array(values, type_)
    chunks = [array] if cut is None else [array.slice(0, cut), array.slice(cut)]
    found = column_range(pa.chunked_array(chunks, type=array.type))
    least, most = found.least, found.most
    return found.nulls, *(None if bound is None else bound.as_py() for bound in (least, most))


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        ([3, None, 1], pa.int64(), (1, 1, 3)),
        ([None, None], pa.int64(), (2, None, None)),
        ([], pa.string(), (0, None, None)),
        ([True, False], pa.bool_(), (0, False, True)),
        (["b", "a", None], pa.string(), (1, "a", "b")),
        ([1.5, None, -2.0], pa.float64(), (1, -2.0, 1.5)),
        ([2**64 - 1, 0], pa.uint64(), (0, 0, 2**64 - 1)),
        (
            [datetime.date(2026, 1, 2), datetime.date(2020, 1, 1)],
            pa.date32(),
            (0, datetime.date(2020, 1, 1), datetime.date(2026, 1, 2)),
        ),
        ([[1], [2]], pa.list_(pa.int64()), (0, None, None)),
        ([1, 2], pa.dictionary(pa.int8(), pa.int64()), (0, None, None)),
    ],
)
def test_a_column_spans_its_least_and_most_value(values, type_, expected):
    assert range_of(values, type_) == expected


def test_nan_is_above_every_number_and_does_not_hide_the_least():
    nulls, least, most = range_of([2.0, math.nan, None, 1.0], cut=2)
    assert (nulls, least) == (1, 1.0)
    assert math.isnan(most)


def test_a_column_of_only_nan_spans_nan():
    nulls, least, most = range_of([math.nan])
    assert nulls == 0
    assert math.isnan(least)
    assert math.isnan(most)


@pytest.mark.parametrize("width", [4, 8])
def test_a_signalling_nan_does_not_hide_the_least_either(width):
    """Of which `fmin` makes a quiet one, and so forgets what it has seen before."""
    values = np.array([-5, 1, 2], f"f{width}")
    values.view(f"u{width}")[1] = {4: 0x7FA00000, 8: 0x7FF4000000000000}[width]
    column = pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), 3, [None, pa.py_buffer(values)])
    found = column_range(pa.chunked_array([column]))
    assert found.least.as_py() == -5
    assert math.isnan(found.most.as_py())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1))
def test_bounds_of_text_hold_and_stay_short(values):
    _, least, most = range_of(values, pa.string())
    if least is None:
        return
    assert all(least <= value <= most for value in values)
    assert max(len(least), len(most)) <= TEXT_LENGTH_MAX


def test_long_text_that_nothing_is_above_has_no_bounds():
    assert range_of(["\U0010ffff" * 100]) == (0, None, None)


def test_text_that_is_not_utf_8_has_no_bounds():
    bad = pa.array([b"a", b"\xff", None]).view(pa.string())
    found = column_range(pa.chunked_array([bad]))
    assert (found.nulls, found.least, found.most) == (1, None, None)
