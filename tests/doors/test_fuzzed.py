"""What tests/doors/fuzz.py holds true of any bytes, for some."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.doors.fuzzed import PARSERS, SEEDS, small_limits


@pytest.fixture(scope="module", autouse=True)
def limits():
    with small_limits():
        yield


@pytest.mark.parametrize("parser", PARSERS)
def test_what_is_held_true_of_seeds_is_true(parser):
    for seed in SEEDS[parser]:
        PARSERS[parser](seed)


@pytest.mark.parametrize(
    ("parser", "found"),
    [
        ("lines", b"\x13abcR a\nDONE\nE\nAUTH what is no token here\nC te"),
        ("lines", b"\0U %b \n" % (b"a" * 97)),  # as long as a line may be: with #0 it would be longer
        ("redis", b"\x15xyzaaNONE a b\nQUIT\nAUTH me 'what is no token'\nGETRANGE ) 0\n\0 -1\nQ"),
    ],
)
def test_what_was_found_is_mended(parser, found):
    PARSERS[parser](found)


@pytest.mark.parametrize("parser", PARSERS)
@given(data=some.data())
def test_what_is_held_true_of_bytes_is_true_of_any(parser, data):
    parts = [bytes([each]) for each in b" \r\n#*$?[]\\"] + [
        word for seed in SEEDS[parser] for word in seed.split(b"\n")
    ]
    pieces = data.draw(some.lists(some.one_of(some.sampled_from(parts), some.binary(max_size=20)), max_size=20))
    PARSERS[parser](bytes([data.draw(some.integers(0, 31))]) + b"".join(pieces))
