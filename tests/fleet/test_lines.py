"""What many nodes write becomes lines, each once and whole."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from eau2.fleet.lines import LINE_BYTES_MAX, Line, Lines
from eau2.fleet.run import Output


@given(st.text("ab\n", max_size=200), st.lists(st.integers(0, 200)), st.randoms(use_true_random=False))
def test_any_cut_of_the_stream_also_when_pieces_come_twice_gives_the_same_lines(text, cuts, chance):
    data = text.encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [Output("a", "out", start, data[start:end]) for start, end in pairwise(bounds)]
    lines, found = Lines(), []
    for number, piece in enumerate(pieces):
        found += lines.take(piece)
        found += lines.take(chance.choice(pieces[: number + 1]))
    found += lines.rest("a")
    assert [line.text for line in found] == text.removesuffix("\n").split("\n") or not text.strip("\n")
    assert "\n".join(line.text for line in found) == text.removesuffix("\n")


def test_nodes_and_streams_do_not_mix_and_lines_without_an_end_come_last():
    lines = Lines()
    pieces = [("a", "out", b"a1\r\na2"), ("b", "out", b"b1"), ("a", "err", b"\xff\n")]
    found = [line for node, stream, data in pieces for line in lines.take(Output(node, stream, 0, data))]
    assert found == [Line("a", "out", "a1"), Line("a", "err", "\\xff")]
    assert list(lines.rest("a")) == [Line("a", "out", "a2")]
    assert list(lines.rest_of_all()) == [Line("b", "out", "b1")]


def test_what_is_missing_is_said_and_what_has_no_end_is_cut():
    lines = Lines()
    assert list(lines.take(Output("a", "out", 100, b"x\n"))) == [
        Line("a", "out", "[100 bytes are missing]"),
        Line("a", "out", "x"),
    ]
    (line,) = lines.take(Output("a", "out", 102, b"y" * (LINE_BYTES_MAX + 1)))
    assert line.text == "y" * LINE_BYTES_MAX
