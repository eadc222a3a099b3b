"""UDP requests and replies, to the byte, and each done at most once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from eau2.doors.datagrams import (
    KEPT_SECONDS,
    Code,
    Command,
    Refused,
    Replies,
    Reply,
    Request,
    Standing,
    answer,
    decode,
    decode_reply,
    encode,
    key_name,
    number,
    reply,
)
from eau2.doors.work import Operation, Verb
from eau2.errors import Corrupt, DiskFull, InvalidKey, NodeUnavailable, OutcomeUnknown, StoreBusy, WrongKind

ID = bytes(range(16))
KEY = b"trips".ljust(32, b"\0")


def test_a_put_is_read_to_the_byte():
    assert decode(ID + b"\x01" + KEY + b"\x05\x00hello") == Request(ID, Operation(Verb.PUT, "trips", b"hello"))
    assert decode(ID + b"\x02" + KEY) == Request(ID, Operation(Verb.GET, "trips"))
    assert decode(ID + b"\x03" + KEY + b"padding") == Request(ID, Operation(Verb.DELETE, "trips"))
    assert decode(ID + b"\x07") == Request(ID, Command.PROCESS_ID)


def test_a_reply_is_written_to_the_byte():
    asked = Request(ID, Operation(Verb.GET, "trips"))
    assert answer(asked, b"hello") == ID + b"\x00\x05\x00hello"
    assert answer(asked, None) == ID + b"\x01"
    assert answer(asked, bytes(10_000)) == ID + b"\x00\x10\x27" + bytes(10_000)
    assert answer(asked, bytes(10_001)) == ID + b"\x07"
    assert answer(asked, True) == ID + b"\x00"
    assert answer(asked, False) == ID + b"\x01"
    assert number(ID, 0x01020304) == ID + b"\x00\x04\x03\x02\x01"


@pytest.mark.parametrize(
    ("datagram", "code"),
    [
        (b"", 0x09),
        (ID, 0x09),
        (ID + b"\x02" + KEY[:-1], 0x09),
        (ID + b"\x01" + KEY, 0x09),
        (ID + b"\x01" + KEY + b"\x05", 0x09),
        (ID + b"\x01" + KEY + b"\x05\x00hell", 0x09),
        (ID + b"\x01" + KEY + b"\x05\x00hello!", 0x09),
        (ID + b"\x01" + KEY + b"\x11\x27" + bytes(10_001), 0x07),
        (ID + b"\x00", 0x05),
        (ID + b"\x09", 0x05),
        (ID + b"\xff" + KEY, 0x05),
    ],
)
def test_what_is_wrong_has_the_code_of_the_protocol(datagram, code):
    refused = decode(datagram)
    assert isinstance(refused, Refused)
    assert reply(refused.id, refused.code) == datagram[:16].ljust(16, b"\0") + bytes([code])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFull("x"), 0x02),
        (StoreBusy("x"), 0x03),
        (NodeUnavailable("x"), 0x03),
        (Corrupt("x"), 0x04),
        (OutcomeUnknown("x"), 0x04),
        (InvalidKey("x"), 0x06),
        (WrongKind("x"), 0x07),
    ],
)
def test_an_error_of_the_store_has_its_code(error, code):
    assert answer(Request(ID, Operation(Verb.GET, "k")), error) == ID + bytes([code])


@given(some.binary(max_size=200))
def test_no_datagram_raises(datagram):
    request = decode(datagram)
    assert request.id == datagram[:16].ljust(16, b"\0")
    decode_reply(Command.GET, datagram)
    decode_reply(Command.PROCESS_ID, datagram)


@given(some.binary(min_size=16, max_size=16), some.binary(max_size=32), some.binary(max_size=100))
def test_what_is_encoded_is_decoded(identity, key, value):
    asked = decode(encode(identity, Command.PUT, key, value))
    assert asked == Request(identity, Operation(Verb.PUT, key_name(key), value))
    assert decode_reply(Command.GET, answer(asked, value)) == Reply(Code.SUCCESS, value)


@given(some.binary(max_size=32), some.binary(max_size=32))
def test_two_keys_have_two_names(one, other):
    assert (key_name(one) == key_name(other)) == (one.ljust(32, b"\0") == other.ljust(32, b"\0"))


def test_a_repeat_gets_the_same_bytes_for_five_seconds():
    replies = Replies()
    assert replies.begin("here", ID, 0.0) is Standing.NEW
    assert replies.begin("here", ID, 0.1) is Standing.WORKING
    assert replies.begin("there", ID, 0.1) is Standing.NEW
    replies.finish("here", ID, b"answer", 1.0)
    assert replies.begin("here", ID, 1.0 + KEPT_SECONDS - 0.01) == b"answer"
    assert replies.begin("here", ID, 1.0 + KEPT_SECONDS) is Standing.NEW
    assert replies.begin("there", ID, 100.0) is Standing.WORKING


def test_more_than_can_be_kept_is_not_done():
    replies = Replies(count_max=2)
    assert replies.begin("a", ID, 0.0) is Standing.NEW
    assert replies.begin("b", ID, 0.0) is Standing.NEW
    replies.finish("a", ID, b"x", 0.0)
    assert replies.begin("c", ID, 0.0) is Standing.FULL
    assert replies.begin("a", ID, 0.0) == b"x"
    assert replies.begin("c", ID, KEPT_SECONDS) is Standing.NEW


def test_what_is_kept_is_bounded_in_bytes():
    replies = Replies(bytes_max=100_000)
    taken = 0
    while replies.begin(taken, ID, 0.0) is Standing.NEW:
        replies.finish(taken, ID, bytes(10_019), 0.0)
        taken += 1
    assert taken == 9
    for _ in range(2):  # and all of it is let go
        assert replies.begin("again", ID, 10.0) in (Standing.NEW, Standing.WORKING)
    replies.finish("again", ID, b"", 10.0)
    replies.begin("later", ID, 20.0)
    replies.finish("later", ID, b"", 20.0)
    assert replies._bytes < 1000
