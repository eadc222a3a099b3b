"""RESP as bytes: commands however they are cut, what is no command, replies in both versions."""

from __future__ import annotations

import shlex
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from eau2.doors import resp
from eau2.doors.patterns import compiled
from eau2.doors.resp import LINE_BYTES_MAX, Commands, split
from eau2.store.store import VALUE_BYTES_MAX

WORDS = some.lists(some.binary(max_size=40), min_size=1, max_size=6)
TYPED = some.lists(
    some.text(
        some.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'*\\"), min_size=1, max_size=8
    ),
    min_size=1,
    max_size=4,
)


def encoded(words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def cut(stream, places):
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(edges)]


@given(some.lists(some.one_of(WORDS, TYPED), max_size=12), some.lists(some.integers(0, 10_000), max_size=40))
def test_any_cut_of_a_stream_gives_the_same_commands(asked, places):
    stream, expected = b"", []
    for words in asked:
        if isinstance(words[0], str):
            expected.append([word.encode() for word in words])
            stream += " ".join(words).encode() + b"\r\n"
        else:
            expected.append(words)
            stream += encoded(words)
    commands = Commands()
    assert [words for data in cut(stream, places) for words in commands.feed(data)] == expected
    assert not commands.broken
    assert not commands.amid


@given(some.lists(some.binary(max_size=200), max_size=20))
def test_garbage_never_raises(pieces):
    commands = Commands()
    for data in pieces:
        for words in commands.feed(data):
            assert words
            assert all(isinstance(word, bytes) for word in words)
    assert commands.broken.isprintable()


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n:3\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$%d\r\n" % (VALUE_BYTES_MAX + 1), "invalid bulk length"),
        (b"*1\r\n$1\r\nabc", "expected a line end"),
        (
            b"*3\r\n" + (b"$%d\r\n%b\r\n" % (VALUE_BYTES_MAX, bytes(VALUE_BYTES_MAX))) * 2 + b"$1\r\n",
            "too large a command",
        ),
        (b"x" * LINE_BYTES_MAX, "too big inline request"),
        (b"*1\r\n$" + b"1" * LINE_BYTES_MAX, "too big bulk count string"),
        (b"GET 'k\r\n", "unbalanced quotes"),
    ],
)
def test_what_is_no_command_is_said_and_nothing_more_is_read(sent, says):
    commands = Commands()
    assert commands.feed(encoded([b"PING"]) + sent) == [[b"PING"]]
    assert says in commands.broken
    assert commands.feed(encoded([b"PING"])) == []


def test_a_stranger_may_not_make_us_remember_much():
    commands = Commands()
    commands.trusted = False
    assert commands.feed(encoded([b"AUTH", b"me", b"token"])) == [[b"AUTH", b"me", b"token"]]
    commands.feed(b"*11\r\n")
    assert "unauthenticated multibulk length" in commands.broken
    commands = Commands()
    commands.trusted = False
    commands.feed(b"*1\r\n$16385\r\n")
    assert "unauthenticated bulk length" in commands.broken


def test_nothing_is_asked_by_empty_lines_and_arrays():
    assert Commands().feed(b"\r\n\n*0\r\n*-1\r\n  \r\nPING\n") == [[b"PING"]]


@given(some.lists(some.text(some.characters(max_codepoint=126, exclude_categories=["Cc"]), max_size=8), max_size=5))
def test_words_are_split_as_a_shell_does(words):
    line = " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    assert split(line.encode()) == [word.encode() for word in words] == [each.encode() for each in shlex.split(line)]


def test_what_is_typed_may_have_quotes_and_escapes():
    assert split(b"SET 'a b' \"x\\n\\x41\\\"\\q\" 'it\\'s'") == [b"SET", b"a b", b'x\nA"q', b"it's"]
    assert split(b"a 'b'c") is None
    assert split(b'"open') is None


def test_replies_have_the_bytes_of_the_protocol():
    assert resp.bulk(b"a\r\n", resp3=False) == b"$3\r\na\r\n\r\n"
    assert [resp.bulk(None, resp3=each) for each in (False, True)] == [b"$-1\r\n", b"_\r\n"]
    assert resp.array([resp.integer(-1), resp.simple("OK")]) == b"*2\r\n:-1\r\n+OK\r\n"
    pairs = {"a": resp.integer(1)}
    assert [resp.mapping(pairs, resp3=each) for each in (False, True)] == [
        b"*2\r\n$1\r\na\r\n:1\r\n",
        b"%1\r\n$1\r\na\r\n:1\r\n",
    ]
    assert resp.error("ERR two\nlines") == b"-ERR two lines\r\n"
    assert resp.error("ERR 'é\x1b[2J\udcff'") == b"-ERR '\xc3\xa9\\x1b[2J\\udcff'\r\n"


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["", "a", "\n"], []),
        ("h?llo", ["hello", "h\nllo"], ["hllo", "heello"]),
        ("h*llo", ["hllo", "heeello"], ["hello!"]),
        ("h[ae]llo", ["hallo", "hello"], ["hillo"]),
        ("h[^e]llo", ["hallo"], ["hello"]),
        ("h[a-c]llo", ["hbllo"], ["hdllo"]),
        ("h[c-a]llo", ["hbllo"], []),
        ("a\\*b", ["a*b"], ["axb"]),
        ("[a\\]]", ["]"], ["\\"]),
        ("[a-]", ["-", "a"], ["b"]),
        ("a.c(", ["a.c("], ["abc("]),
        ("*a*b*", ["ab", "xaxbx", "aab"], ["ba"]),
        ("[", [], ["[", ""]),
        ("a[", [], ["a"]),
        ("a\\", ["a\\"], ["a"]),
        ("*ab", ["aab", "ab"], ["abc"]),
    ],
)
def test_patterns_match_as_they_do_in_redis(pattern, yes, no):
    matches = compiled(pattern).fullmatch
    assert [name for name in yes + no if matches(name)] == yes


@given(some.text("ab*?[]^-\\c", max_size=12), some.text("abc", max_size=8))
def test_no_pattern_raises(pattern, name):
    compiled(pattern).fullmatch(name)


def test_a_pattern_of_many_stars_takes_no_time():
    assert not compiled("*a" * 30 + "b").fullmatch("a" * 500)
