"""CRUD lines: what is asked, whatever way it is cut, and what is refused without harm to the next."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from eau2.doors.lines import LINE_BYTES_MAX, Goodbye, Identify, Lines, LinesConversation, Refused, answer
from eau2.doors.tokens import Access, Tokens
from eau2.doors.work import Operation, Verb
from eau2.errors import DiskFull
from eau2.store.store import VALUE_BYTES_MAX

KEYS = some.text(some.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)
INLINE = some.binary(max_size=30).filter(lambda value: b"\n" not in value and value[-1:] != b"\r" and value[:1] != b"#")
WITH_VALUE = {Verb.CREATE: b"C", Verb.UPDATE: b"U"}


def inline(verb, key, value):
    return b"%b %b %b" % (WITH_VALUE[verb], key.encode(), value), Operation(verb, key, value)


def announced(verb, key, value, end):
    line = b"%b %b #%d%b%b" % (WITH_VALUE[verb], key.encode(), len(value), end, value)
    return line, Operation(verb, key, value)


def bare(verb, key, blanks):
    return b"%b %b%b" % ({Verb.GET: b"R", Verb.DELETE: b"D"}[verb], key.encode(), blanks), Operation(verb, key)


CHANGING = some.sampled_from(sorted(WITH_VALUE))
VALID = some.one_of(
    some.builds(inline, CHANGING, KEYS, INLINE),
    some.builds(announced, CHANGING, KEYS, some.binary(max_size=50), some.sampled_from([b"\n", b"\r\n"])),
    some.builds(bare, some.sampled_from([Verb.GET, Verb.DELETE]), KEYS, some.sampled_from([b"", b" ", b"   "])),
    some.just((b"DONE", Goodbye())),
    some.builds(lambda token: (b"AUTH " + token.encode(), Identify(token)), KEYS),
)
WRONG = some.sampled_from(
    [b"", b"x", b"c a b", b"C", b"C a", b"C  b", b"R", b"R a b", b"D", b"GET a", b"DONE now", b"AUTH "]
)
LINES = some.lists(some.tuples(some.one_of(VALID, WRONG), some.sampled_from([b"\n", b"\r\n"])), max_size=12)


def cut(stream, places):
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(edges)]


@given(LINES, some.lists(some.integers(0, 10_000), max_size=40))
def test_any_cut_of_a_stream_gives_the_same_requests(asked, places):
    stream, expected = b"", []
    for what, end in asked:
        line, request = what if isinstance(what, tuple) else (what, None)
        stream += line + end
        expected.append(request)
    lines = Lines()
    found = [request for data in cut(stream, places) for request in lines.feed(data)]
    assert [None if isinstance(each, Refused) else each for each in found] == expected
    assert not lines.amid
    assert lines.end() == []


@given(some.lists(some.binary(max_size=200), max_size=20))
def test_garbage_is_refused_and_never_raises(pieces):
    lines = Lines()
    found = [request for data in pieces for request in lines.feed(data)] + lines.end()
    for request in found:
        assert not isinstance(request, Refused) or request.reason.isprintable()
    assert lines.feed(b"\nR a\n")[-1] == Operation(Verb.GET, "a")


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"C k " + b"v" * LINE_BYTES_MAX, "at most 65,536 bytes"),
        (b"v" * (3 * LINE_BYTES_MAX), "at most 65,536 bytes"),
        (b"C k #%d\n" % (VALUE_BYTES_MAX + 1) + bytes(VALUE_BYTES_MAX + 1), "at most 67,108,864 bytes"),
        (b"C k\x07 #3\nab\n", "control characters"),
        (b"U \xff #5\nR a\nb", "UTF-8"),
        (b"C k #3\nabcd", "no line end follows"),
        (b"C " + b"k" * 513 + b" v", "at most 512 bytes"),
        (b"R " + "é".encode("latin-1"), "UTF-8"),
        (b"* 3", "begins with C, R, U, D or DONE"),
        (b"C key", "lacks a value"),
        (b"R key x", "nothing after it"),
    ],
)
def test_what_is_refused_says_why_and_the_next_request_is_read(sent, says):
    lines = Lines()
    found = [request for start in range(0, len(sent), 10_000) for request in lines.feed(sent[start : start + 10_000])]
    found += lines.feed(b"\nR next\n")
    assert [type(each) for each in found] == [Refused, Operation]
    assert says in found[0].reason
    assert found[1] == Operation(Verb.GET, "next")


def test_no_more_is_held_than_a_line_and_a_value():
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * LINE_BYTES_MAX) == []
    assert len(lines._received) <= 2 * LINE_BYTES_MAX
    assert [type(each) for each in lines.feed(b"\n")] == [Refused]


@pytest.mark.parametrize("sent", [b"R a", b"C a #5\nhel", b"C a #5\nhello", b"C a #100000000\nx", b"y" * 100_000])
def test_a_request_that_is_cut_off_is_not_done(sent):
    lines = Lines()
    assert lines.feed(sent) == []
    assert lines.amid
    (refused,) = lines.end()
    assert isinstance(refused, Refused)


def test_a_value_is_the_rest_of_its_line():
    asked = Lines().feed(b"C k  a b \nU k #x\r\nC k \nU k #3\n\n#\n\n")
    assert [each.value for each in asked] == [b" a b ", b"#x", b"", b"\n#\n"]


@pytest.mark.parametrize(
    ("verb", "outcome", "reply"),
    [
        (Verb.CREATE, True, b"OK\n"),
        (Verb.CREATE, False, b"EXISTS\n"),
        (Verb.GET, b"a\nb", b"VALUE 3\na\nb\n"),
        (Verb.GET, b"", b"VALUE 0\n\n"),
        (Verb.GET, None, b"MISSING\n"),
        (Verb.UPDATE, True, b"OK\n"),
        (Verb.UPDATE, False, b"MISSING\n"),
        (Verb.DELETE, True, b"OK\n"),
        (Verb.DELETE, False, b"MISSING\n"),
        (Verb.CREATE, DiskFull("no room\nfor 'k'"), b"ERROR no room for 'k'\n"),
    ],
)
def test_the_replies_are_those_of_the_protocol(verb, outcome, reply):
    assert answer(verb, outcome) == reply


def test_goodbye_and_a_token_are_answered():
    conversation = LinesConversation(Access(Tokens(), lambda what: None))
    assert [each.reply for each in conversation.feed(b"AUTH abc\nwhat\nDONE\n")] == [
        *(b"ERROR the token is not known here\n", b"ERROR a request begins with C, R, U, D or DONE\n", b"BYE\n")
    ]
