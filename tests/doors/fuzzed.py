"""What holds for any bytes that a parser of the doors is fed: one function each, which raises when it does not.

tests/doors/fuzz.py has atheris look for bytes that break them, by hand; test_fuzzed.py has hypothesis do so, each time.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from unittest import mock

import hiredis
from tests.doors import fuzzed_uploads
from tests.doors.fuzzed_uploads import check_uploads  # noqa: F401  # one of PARSERS
from tests.doors.globs import matches

from eau2.doors import datagrams, lines, redis_keys, resp
from eau2.doors.datagrams import Code, Command, Refused, Replies, Request, Standing
from eau2.doors.deadlines import Deadlines
from eau2.doors.lines import Lines, LinesConversation
from eau2.doors.patterns import compiled
from eau2.doors.redis import Listings, RedisConversation
from eau2.doors.tokens import TOKEN_BYTES_MIN, VARIABLE, Access, Role, Tokens
from eau2.doors.work import Operation, Said, Verb
from eau2.errors import Eau2Error, InvalidOption, WrongKind

TOKENS = Tokens([("a token that reads", Role.READ), ("a token that writes", Role.WRITE)])
FEW_BYTES_MAX = 4 << 10  # of what a parser holds besides what its limits name
LIMITS = {
    lines: {"LINE_BYTES_MAX": 100, "VALUE_BYTES_MAX": 200},
    resp: {
        "LINE_BYTES_MAX": 100,
        "VALUE_BYTES_MAX": 200,
        "COMMAND_BYTES_MAX": 500,
        "ARGUMENTS_MAX": 20,
        "_STRANGER_ARGUMENTS_MAX": 5,
        "_STRANGER_BYTES_MAX": 50,
    },
}


@contextmanager
def small_limits():
    """Have limits that short inputs reach."""
    with ExitStack() as stack:
        for module, limits in LIMITS.items():
            stack.enter_context(mock.patch.multiple(module, **limits))
        yield


def of(data):
    """Return what `data` chooses: whether tokens are demanded, the stream, and the stream in pieces."""
    choice, stream = data[:1] or b"\0", data[1:]
    places, stream = stream[: choice[0] & 7], stream[choice[0] & 7 :]
    edges = sorted({0, len(stream), *(place * len(stream) // 256 for place in places)})
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    if choice[0] & 8:
        pieces = [stream[at : at + 1] for at in range(len(stream))]
    return bool(choice[0] & 16), stream, pieces


def held(parser):
    """Return how many bytes `parser` keeps in its own attributes and their lists."""
    size = 0
    left = list(vars(parser).values())
    while left:
        each = left.pop()
        if isinstance(each, bytes | bytearray | str):
            size += len(each)
        elif isinstance(each, list | tuple):
            left += each
    return size


class Keys:
    """A `View` of a dict, of values and when they end, at a moment that does not pass."""

    now = 1_800_000_000_000

    def __init__(self):
        self.values = {}

    def get(self, key):
        if key == "frame":
            raise WrongKind("'frame' holds a frame")
        return self.values[key][0] if self.has(key) else None

    def has(self, key):
        until = self.until(key)
        return key in self.values and (until is None or until > self.now)

    def until(self, key):
        return self.values[key][1] if key in self.values else None

    def expire(self, key):
        if not self.has(key):
            self.values.pop(key, None)

    def note_ends(self):
        pass

    def is_frame(self, key):
        return key == "frame"

    def put(self, key, value, *, until=None):
        self.values[key] = value, until

    def delete(self, key):
        return self.values.pop(key, None) is not None

    def discard(self, key):
        self.values.pop(key, None)

    def every_key(self):
        return sorted(self.values)

    def frames(self):
        return []


def replies(conversation, pieces, keys):
    """Return what each request of `pieces` is answered, one after the other, until one ends the connection."""
    said, ended = [], False
    for piece in pieces:
        for request in conversation.feed(piece):
            if isinstance(request, Said):
                reply, ended = request.reply, request.ends
            else:
                before = dict(keys.values)
                try:
                    outcome = request.command.run(keys)
                except Eau2Error as error:
                    outcome = error
                    assert keys.values == before, "what raises changes nothing"
                reply = request.answer(outcome)
            said.append(reply)
            if ended:
                return said, True
    return said, False


# -- CRUD lines -------------------------------------------------------------------------------------------------------


def check_lines(data):
    demanded, stream, pieces = of(data)
    whole, cut = Lines(), Lines()
    whole.trusted = cut.trusted = not demanded
    found = whole.feed(stream)
    again = []
    for piece in pieces:
        again += cut.feed(piece)
        assert held(cut) <= max(lines.LINE_BYTES_MAX, lines.VALUE_BYTES_MAX) + FEW_BYTES_MAX
    assert again == found
    assert cut.amid == whole.amid
    for request in found:
        if isinstance(request, lines.Refused):
            assert request.reason.isprintable()
        elif isinstance(request, Operation):
            assert _told_again(request) in ([request], None)
    if not whole.amid:
        assert whole.feed(b"R next\n") == [Operation(Verb.GET, "next")], "what was refused has ended"
    elif all(whole.feed(b"\n" * (lines.VALUE_BYTES_MAX + 2))) and not whole.amid:
        assert whole.feed(b"R next\n") == [Operation(Verb.GET, "next")]
    ended = cut.end()
    assert len(ended) <= 1
    assert cut.feed(b"R next\n") == [Operation(Verb.GET, "next")]
    _check_line_replies(demanded, stream, pieces)


def _told_again(request):
    """Return what the request is read as that says the same as `request`; None where its line is too long for that."""
    name = {Verb.CREATE: b"C", Verb.GET: b"R", Verb.UPDATE: b"U", Verb.DELETE: b"D"}[request.verb]
    if request.verb in (Verb.GET, Verb.DELETE):
        return Lines().feed(b"%b %b\n" % (name, request.key.encode()))
    line = b"%b %b #%d" % (name, request.key.encode(), len(request.value))
    if len(line) > lines.LINE_BYTES_MAX:  # as it came, the value was shorter than its length
        return None
    return Lines().feed(b"%b\n%b\n" % (line, request.value))


def _check_line_replies(demanded, stream, pieces):
    told = []
    for fed in ([stream], pieces):
        audited = []
        conversation = LinesConversation(Access(TOKENS if demanded else Tokens(), audited.append))
        keys = Keys()
        told.append((*replies(conversation, fed, keys), keys.values, audited))
        assert demanded is False or keys.values == {} or TOKENS.role("a token that writes") == conversation._access.role
    assert told[0] == told[1]
    for reply in told[0][0]:
        head, _, rest = reply.partition(b"\n")
        kind, _, size = head.partition(b" ")
        if kind == b"VALUE":
            assert len(rest) == int(size) + 1
        else:
            assert rest == b""
            assert kind in (b"OK", b"EXISTS", b"MISSING", b"BYE", b"ERROR")
            assert head.decode().isprintable()


_SET = b"*3\r\n$3\r\nSET\r\n"


# -- RESP -------------------------------------------------------------------------------------------------------------


def check_resp(data):
    """Commands alone."""
    demanded, stream, pieces = of(data)
    whole, cut = resp.Commands(), resp.Commands()
    whole.trusted = cut.trusted = not demanded
    found = [bytes_of(words) for words in whole.feed(stream)]
    again = []
    for piece in pieces:
        again += [bytes_of(words) for words in cut.feed(piece)]
        assert held(cut) <= resp.COMMAND_BYTES_MAX + resp.LINE_BYTES_MAX + FEW_BYTES_MAX
    assert again == found
    assert (cut.broken, cut.amid) == (whole.broken, whole.amid)
    if (at_once := resp.plain(stream)) is not None and not demanded:
        keys, values = at_once
        meant = (
            [[b"GET", key] for key in keys]
            if values is None
            else [[b"SET", *pair] for pair in zip(keys, values, strict=True)]
        )
        assert ([[words[0].upper(), *words[1:]] for words in found], whole.amid) == (meant, False)
    said = [_SET + each for each in stream.split(_SET)[1:]]  # by so many clients
    if len(pieces) > 1 and len(said) > 1:  # and one of them has said two, or a part of the next
        said[:2] = [said[0] + said[1][: len(pieces[0]) % len(said[1])], said[1]]
    if said and (each := resp.sets(said)) is not None:
        for one, *pair in zip(said, *each, strict=True):
            alone = resp.Commands()
            assert ([alone.feed(one)], alone.amid, alone.broken) == ([[[b"SET", *pair]]], False, "")
    asked = resp.gets(stream) if resp.begins(stream) is Verb.GET else None
    if asked and not demanded and all(_is_bulk(each) for each in asked):
        assert ([words[1:] for words in found], whole.amid) == ([[each.split(b"\r\n")[1]] for each in asked], False)
    assert whole.broken.isprintable()
    for words in found:
        assert words
        assert len(words) <= max(resp.ARGUMENTS_MAX, resp.LINE_BYTES_MAX)
        if len(words) <= resp.ARGUMENTS_MAX and max(map(len, words)) <= resp.VALUE_BYTES_MAX:
            assert [bytes_of(each) for each in resp.Commands().feed(_encoded(words))] == [words]
    if whole.broken:
        assert whole.feed(b"PING\r\n") == []
        assert held(whole) <= FEW_BYTES_MAX
    elif not whole.amid:
        assert [bytes_of(words) for words in whole.feed(b"*1\r\n$4\r\nPING\r\n")] == [[b"PING"]]


def _is_bulk(data):
    _, _, rest = data.partition(b"\r\n")
    key = rest.removesuffix(b"\r\n")
    return b"\r\n" not in key and data == b"$%d\r\n%b\r\n" % (len(key), key)


def bytes_of(words):
    assert all(isinstance(word, bytes) for word in words)
    return list(words)


def _encoded(words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def check_redis(data):
    """Whole conversations with Redis's door, over a dict."""
    demanded, stream, pieces = of(data)
    told = []
    for fed in ([stream], pieces):
        audited = []
        conversation = RedisConversation(
            Access(TOKENS if demanded else Tokens(), audited.append),
            Listings(Deadlines(lambda: Keys.now / 1000)),
            lambda: {"eau2_version": "0"},
            allow_wipe=True,
        )
        keys = Keys()
        said, ended = replies(conversation, fed, keys)
        told.append((said, ended, keys.values, audited, not ended and conversation.amid))
        assert not ended or conversation.feed(b"PING\r\n") == []
    assert told[0] == told[1]
    said, ended, _, _, amid = told[0]
    for reply in said:
        reader = hiredis.Reader()
        reader.feed(reply)
        assert reader.gets() is not False, f"a whole reply, not {reply!r}"
        assert reader.gets() is False, f"one reply, not {reply!r}"
        if reply[:1] in b"+-":
            assert reply[:-2].decode().isprintable(), f"a line says nothing to a terminal: {reply!r}"
    if not ended and not amid:
        ((ping,), _) = replies(conversation, [b"*1\r\n$4\r\nPING\r\n"], Keys())
        assert ping == (b"-NOAUTH Authentication required.\r\n" if not conversation.access.role else b"+PONG\r\n")


# -- datagrams --------------------------------------------------------------------------------------------------------


def check_datagrams(data):
    """A datagram is read to the byte, and what is read is written again."""
    asked = datagrams.decode(data)
    assert asked.id == data[:16].ljust(16, b"\0")
    for command in Command:
        reply = datagrams.decode_reply(command, data)
        assert reply is None or reply.code == data[16]
    if isinstance(asked, Refused):
        assert asked.code in (Code.MALFORMED, Code.UNKNOWN_COMMAND, Code.INVALID_VALUE)
        return
    if isinstance(asked.what, Command):
        assert datagrams.decode(datagrams.encode(asked.id, asked.what)) == asked
        return
    written = datagrams.encode(asked.id, Command(data[16]), data[17:49], asked.what.value or None)
    if asked.what.verb is Verb.PUT and not asked.what.value:
        written = datagrams.encode(asked.id, Command.PUT, data[17:49], b"")
    assert data.startswith(written)
    assert datagrams.decode(written) == asked
    answered = datagrams.answer(Request(asked.id, asked.what), asked.what.value)
    assert datagrams.decode_reply(Command.GET, answered) == datagrams.Reply(Code.SUCCESS, asked.what.value)


def check_at_most_once(data):
    """The memory of replies beside a dict: each byte begins, ends or lets time pass."""
    few, room = 6, 3 * datagrams._REPLY_MAX
    memory = Replies(count_max=few, bytes_max=room)
    kept, working, now, done = {}, {}, 0.0, count()
    for byte in data:
        which = (byte >> 2 & 3, bytes([byte >> 4 & 3]))
        if byte & 3 == 0:
            now += (byte >> 2) / 8
        elif byte & 3 == 1 and which in working:
            reply = bytes(16) + bytes([byte >> 6]) + b"%d" % next(done) + bytes((byte >> 6) * 2500)
            memory.finish(*which, reply, now)
            del working[which]
            if reply[16] != Code.OVERLOADED:
                kept[which] = now, reply
        else:
            kept = {each: (at, reply) for each, (at, reply) in kept.items() if now - at < datagrams.KEPT_SECONDS}
            standing = memory.begin(*which, now)
            if which in kept:
                assert standing == kept[which][1], "the same bytes again"
            elif which in working:
                assert standing is Standing.WORKING
            else:
                assert standing in (Standing.NEW, Standing.FULL)
                assert standing is Standing.FULL or len(kept) + len(working) < few
                if standing is Standing.NEW:
                    working[which] = now
        taken = sum(len(reply) for _, reply in memory._kept.values())
        assert taken + len(working) * datagrams._REPLY_MAX <= room
        assert len(memory._kept) + len(working) <= few
    for which in working:
        memory.finish(*which, bytes(17), now)
    memory.begin("last", b"", now + datagrams.KEPT_SECONDS)
    memory.finish("last", b"", b"", now + datagrams.KEPT_SECONDS)
    assert memory._bytes == datagrams._ENTRY_BYTES, "what is let go is given back"


# -- patterns and tokens ----------------------------------------------------------------------------------------------


def check_patterns(data):
    """A pattern matches what a table of prefixes says; fuzz.py's limit of seconds finds those that take too long."""
    size = int.from_bytes(data[:2], "little") % (redis_keys.PATTERN_BYTES_MAX + 1)
    pattern, name = data[2 : 2 + size].decode("utf-8", "replace"), data[2 + size :].decode("utf-8", "replace")
    assert bool(compiled(pattern).fullmatch(name)) == matches(pattern, name)


def check_tokens(data):
    """A file of tokens is read, or refused as a wrong option; each token in it has a role, and no other has."""
    file = os.memfd_create("tokens")
    try:
        os.fchmod(file, 0o600)
        os.write(file, data)
        with mock.patch.dict(os.environ):
            os.environ.pop(VARIABLE, None)
            tokens = Tokens.read(f"/proc/self/fd/{file}")
    except InvalidOption as error:
        assert str(error).isprintable()
        return
    finally:
        os.close(file)
    text = data.decode()
    words = {part for line in text.splitlines() for part in (line.strip().partition(" ")[2].strip(), line)}
    known = {word for word in words if tokens.role(word)}
    assert all(len(word.encode()) >= TOKEN_BYTES_MIN for word in known)
    assert bool(tokens) == bool(known)
    assert not any(word in repr(tokens) for word in known)


PARSERS = {
    name.removeprefix("check_"): check
    for name, check in sorted(vars(sys.modules[__name__]).items())
    if name.startswith("check_")
}
SEEDS = {
    "lines": [b"\0C a 1\nR a\nU a #3\r\nabc\r\nD a\nDONE\n", b"\x13abcAUTH a token that writes\nC k #5\nhello\nR k\n"],
    "resp": [
        b"\0" + b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" * 3,
        b"\0" + b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n" * 2,
        b"\0*2\r\n$3\r\nGET\r\n$1\r\nk\r\nSET a 'b c'\r\n*0\r\n*-1\r\n",
        b'\x0bxyzSET "a\\x41\\n" b\n',
    ],
    "redis": [
        b"\0HELLO 3\nSET a 1\nGET a\nINCR a\nSCAN 0 MATCH a* COUNT 5 TYPE string\nKEYS [a-b]*\nCLIENT LIST\n",
        b"\x12abHELLO 3 AUTH me 'a token that writes' SETNAME x\nMSET a 1 b 2\nMGET a b\nDEL a\nGETRANGE b 0 -1\n",
        b"\0SET k v XX GET\nAPPEND k x\nSTRLEN k\nGETDEL k\nEXPIRE k 1\nCOMMAND COUNT\nINFO\nSELECT 0\nFLUSHDB\nQUIT\n",
    ],
    "datagrams": [bytes(16) + b"\x01" + b"key".ljust(32, b"\0") + b"\x05\x00hello", bytes(16) + b"\x02" + bytes(32)],
    "at_most_once": [bytes(range(256)), bytes([2, 1, 2, 80, 2, 5, 6, 5, 6, 255, 254])],
    "patterns": [b"\x0c\0k[a-c]*\\?*[^x]kb-12?y", b"\x08\0*a*a*a*baaaaaaaaaaaaaaaaaaaa"],
    "uploads": list(fuzzed_uploads.SEEDS),
    "tokens": [b"# who\nread a token that reads\n\nADMIN  abcdefghijklmnop\n", b"write abcdefghijklmnopqrst"],
}
