"""RESP, the protocol of Redis: commands in, replies out, as bytes. No sockets, no store.

Commands come as arrays of bulk strings, `*2 $3 GET $1 k`, or as a line that somebody types. Replies are of RESP2, or of
RESP3 after HELLO 3. https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING

from eau2.doors.work import Verb
from eau2.store.store import VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

LINE_BYTES_MAX = 64 << 10  # of a line that is typed, and of the head of an array or bulk string
ARGUMENTS_MAX = 1 << 20
COMMAND_BYTES_MAX = 128 << 20  # of its arguments together
_STRANGER_ARGUMENTS_MAX, _STRANGER_BYTES_MAX = 10, 16 << 10  # of one who has not said who it is


class Commands:
    """The commands of one connection, in order, however the bytes were cut on their way. Holds at most one command.

    After what is no command nothing more is read: where the next one begins is not known.
    """

    def __init__(self) -> None:
        self.broken = ""  # what was wrong, once something was
        self.amid = False  # whether a command has begun that has not ended; no method: each request asks
        self.trusted = True  # False: the limits for strangers hold
        self._received = bytearray()
        self._arguments: list[bytes] = []
        self._missing = 0  # arguments of the command that has begun
        self._length = -1  # of the argument whose bytes are to come
        self._bytes = 0  # of the arguments so far
        self._at = 0  # of what was received, bytes that have been taken

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Return the commands that end in `data`, each at least its name. Sees whether something `broken` came."""
        return list(self.commands(data))

    def commands(self, data: bytes) -> Iterator[list[bytes]]:
        """Yield what `feed` returns; each before the next is looked at, by the trust that there is then."""
        if self.broken:
            return
        tried = not self.trusted  # to take many at once
        found: list[list[bytes]] = []
        self._received += data
        while not self.broken:
            if not tried and not self._missing:
                tried = True  # once for these bytes, as it looks at all that are left
                some, size = whole(bytes(memoryview(self._received)[self._at :]))
                self._at += size
                yield from some
            if not (self._argument(found) if self._length >= 0 else self._line(found)):
                break
            yield from found
            found.clear()
        self._let_go()

    def _let_go(self) -> None:
        """Let go of the bytes that have been taken; of all, where what follows means nothing."""
        del self._received[: len(self._received) if self.broken else self._at]
        self._at = 0
        self.amid = bool(self._received or self._missing)

    def _argument(self, found: list[list[bytes]]) -> bool:
        """Take the bytes of the argument whose head has come; whether all of them are there."""
        received, at = self._received, self._at
        end = at + self._length
        if len(received) < end + 2:
            return False
        if received[end] != 13 or received[end + 1] != 10:
            self.broken = "expected a line end after a bulk string"
            return False
        self._arguments.append(bytes(received[at:end]))
        self._at, self._length = end + 2, -1
        self._missing -= 1
        if not self._missing:
            found.append(self._arguments)
            self._arguments, self._bytes = [], 0
        return True

    def _line(self, found: list[list[bytes]]) -> bool:
        """Take a line: the head of an argument or a command, or a whole command; whether it is there."""
        received, at = self._received, self._at
        end = received.find(b"\n", at, at + LINE_BYTES_MAX)
        if end < 0:
            if len(received) - at >= LINE_BYTES_MAX:
                self.broken = "too big bulk count string" if self._missing else "too big inline request"
            return False
        self._at = end + 1
        command = self._read(bytes(received[at:end]).removesuffix(b"\r"))
        if command:
            found.append(command)
        return not self.broken

    def _read(self, line: bytes) -> list[bytes] | None:
        """Take the head of an argument or of a command; return the command where the line is all of it."""
        if self._missing:
            length = _number(line[1:])
            if line[:1] != b"$":
                self.broken = f"expected '$', got {chr(line[0]) if line else ' '!r}"
            elif length is None or length > (VALUE_BYTES_MAX if self.trusted else _STRANGER_BYTES_MAX):
                self.broken = "invalid bulk length" if self.trusted else "unauthenticated bulk length"
            elif self._bytes + length > COMMAND_BYTES_MAX:
                self.broken = "too large a command"
            else:
                self._length = length
                self._bytes += length
            return None
        if line[:1] == b"*":
            count = _number(line[1:])
            if count is None and line[1:2] == b"-" and _number(line[2:]) is not None:
                return None  # a null array: nothing is asked
            if count is None or count > (ARGUMENTS_MAX if self.trusted else _STRANGER_ARGUMENTS_MAX):
                self.broken = "invalid multibulk length" if self.trusted else "unauthenticated multibulk length"
            else:
                self._missing = count
            return None
        words = split(line)
        if words is None:
            self.broken = "unbalanced quotes in request"
        return words or None


def whole(data: bytes) -> tuple[list[list[bytes]], int]:
    r"""Return the commands with which `data` begins, and where what follows them begins.

    Those that are whole, arrays, and have no line end in an argument: of what is anything else, a byte after the other
    is looked at. A quarter of that costs this.

    >>> whole(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI")
    ([[b'PING']], 14)
    """
    lines = data.split(b"\r\n")
    last = len(lines) - 1  # what is not ended by a line end
    commands: list[list[bytes]] = []
    line = at = 0
    while line < last and (count := _COUNTS.get(lines[line], 0)):
        end = line + 1 + 2 * count
        heads, words = lines[line + 1 : end : 2], lines[line + 2 : end : 2]
        if end > last or heads != _heads(words):
            break
        commands.append(words)
        at += sum(map(len, lines[line:end])) + 2 * (end - line)
        line = end
    return commands, at


_COUNTS = {b"*%d" % count: count for count in range(1, 100)}
_HEADS = [b"$%d" % length for length in range(4096)]  # of bulk strings
_FIRST_HEADS = [b"*" + head for head in _HEADS]  # of those after what `plain` takes for a star
_GETS = (b"*2\r\n$3\r\nGET\r\n", b"*2\r\n$3\r\nget\r\n")
_SETS = (b"*3\r\n$3\r\nSET\r\n", b"*3\r\n$3\r\nset\r\n")
_BEGIN_BYTES = 13  # of each of these
_END = b"\r\n"
ALIKE_MAX = 64  # requests that `_alike` looks at: what takes more apart is itself large
_LINES = {**dict.fromkeys(_GETS, 2), **dict.fromkeys(_SETS, 4)}  # of a request, after its begin
_VERBS = {**dict.fromkeys(_GETS, Verb.GET), **dict.fromkeys(_SETS, Verb.PUT)}


def begins(data: bytes) -> Verb | None:
    """Return GET or PUT where `data` begins with a GET or a SET, which may have options. 0.1 us."""
    return _VERBS.get(data[:_BEGIN_BYTES])


def gets(data: bytes) -> list[bytes]:
    r"""Return what `data`, which begins with a GET, asks by such: as it came, and nothing was looked at.

    If each is a bulk string, `data` is so many whole GETs. 0.3 us, and 0.06 for each more.

    >>> gets(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n" * 2)
    [b'$1\r\na\r\n', b'$1\r\na\r\n']
    """
    found = data.split(data[:_BEGIN_BYTES])
    del found[0]
    return found


def plain(data: bytes) -> tuple[Sequence[bytes], Sequence[bytes] | None] | None:
    r"""Return the keys, and the values, where `data` is so many whole GETs or so many whole SETs without options.

    None where it is not, or a key or value has a line end in it, but for such as `_alike` finds. 0.5 us, and 0.25 for
    each more, 0.1 where they are alike: a Python step for each argument would cost ten times as much.

    >>> plain(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n" * 2), plain(b"PING\r\n")
    (([b'a', b'a'], None), None)
    """
    begin = data[:_BEGIN_BYTES]
    step = _LINES.get(begin)
    if step is None:
        return None
    if data.find(begin, _BEGIN_BYTES) < 0:  # one, as usual
        return _plain_one(data.split(_END), step)
    if step == 4 and (found := _alike(data, begin)) is not None:
        return found
    return _plain_each(data, begin, step)


def sets(said: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]] | None:
    r"""Return the keys and the values where each of what is `said` is one SET, as `plain` takes it; None where one is
    not, and for some that have a line end or `*$` in a key or value. 0.15 us each where they are alike, else 0.35.

    >>> sets([b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nx\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$2\r\nyz\r\n"])
    ([b'a', b'b'], [b'x', b'yz'])
    """
    begin = said[0][:_BEGIN_BYTES]
    if begin not in _SETS or said[0].find(begin, _BEGIN_BYTES) >= 0:  # several, as one who pipelines says
        return None
    data = b"".join(said)
    found = None
    # As many SETs as there are of these: then each is one, if all SETs are equally long, and so is all that is said; or
    # if each begins with the one thing that is nowhere else.
    if len({*map(len, said)}) == 1:
        found = _alike(data, begin)
    if found is None and {each[:_BEGIN_BYTES] for each in said} == {begin}:
        keys, values = _plain_each(data, begin, 4) or ((), None)
        found = (keys, values or ())
    return found if found is not None and len(found[0]) == len(said) else None


def _plain_each(data: bytes, begin: bytes, step: int) -> tuple[Sequence[bytes], Sequence[bytes] | None] | None:
    """As `plain`, of one request or more, whose arguments have no line ends."""
    short = data.replace(begin, b"*")
    lines = short.split(_END)
    last = lines.pop()
    keys, values = lines[1::step], None if step == 2 else lines[3::step]
    count = len(keys)
    # A star before a dollar is such a begin, where there was none before. So if each request has one, and there are as
    # many of them, the bytes are these requests and no others.
    if len(data) - len(short) != count * (_BEGIN_BYTES - 1) or (data.count(b"*") != count and b"*$" in data):
        return None
    if last or len(lines) != count * step or lines[::step] != _heads(keys, _FIRST_HEADS):
        return None
    return (keys, values) if not values or lines[2::step] == _heads(values) else None


def _plain_one(lines: list[bytes], step: int) -> tuple[list[bytes], list[bytes] | None] | None:
    """As `plain`, of the lines of what begins with one request."""
    if len(lines) != step + 4 or lines[-1]:
        return None
    try:
        if lines[3] == _HEADS[len(lines[4])]:
            if step == 2:
                return [lines[4]], None
            if lines[5] == _HEADS[len(lines[6])]:
                return [lines[4]], [lines[6]]
    except IndexError:  # longer
        if [lines[3], *lines[5:-1:2]] == _heads(lines[4::2]):
            return [lines[4]], [lines[6]] if step == 4 else None
    return None


def _alike(data: bytes, begin: bytes) -> tuple[Sequence[bytes], Sequence[bytes]] | None:
    """As `plain`, of SETs, where all have keys of one length and values of one length; else None.

    Then each byte has its place, and one call takes them apart. Line ends in keys or values are no matter.
    """
    lines = data.split(_END, 7)
    if len(lines) < 8:
        return None
    count = len(data) // (len(data) - len(lines[7]))
    if count > ALIKE_MAX:
        return None
    layout, heads, between = _layout(begin, len(lines[4]), len(lines[6]), count)
    if layout.size != len(data):
        return None
    parts: tuple[bytes, ...] = layout.unpack(data)
    return (parts[1::4], parts[3::4]) if parts[::4] == heads and parts[2::4] == between else None


@lru_cache(maxsize=256)
def _layout(
    begin: bytes, key_bytes: int, value_bytes: int, count: int
) -> tuple[Struct, tuple[bytes, ...], tuple[bytes, ...]]:
    """Return what takes so many SETs apart, whose keys and values are so long, into what must stand before the keys
    and at the end, keys, what must stand between, and values, in turn; and those that must. 2 us."""
    head, between = b"%b$%d\r\n" % (begin, key_bytes), b"\r\n$%d\r\n" % value_bytes
    pair = f"{key_bytes}s{len(between)}s{value_bytes}s"
    layout = Struct(f"{len(head)}s" + f"{pair}{len(head) + 2}s" * (count - 1) + f"{pair}2s")
    return layout, (head, *[_END + head] * (count - 1), _END), (between,) * count


def _heads(strings: list[bytes], heads: list[bytes] = _HEADS) -> list[bytes]:
    """Return the heads of bulk `strings`: such as `heads` has them for short ones."""
    try:
        return [*map(heads.__getitem__, map(len, strings))]
    except IndexError:
        return [b"%b%d" % (heads[0][:-1], len(string)) for string in strings]


def split(line: bytes) -> list[bytes] | None:
    r"""Return the words of a line that somebody typed; None where a quote is not closed.

    >>> split(b'SET key "two words\\n" x'), split(b"GET 'k")
    ([b'SET', b'key', b'two words\n', b'x'], None)
    """
    words: list[bytes] = []
    at = 0
    while at < len(line):
        if line[at : at + 1].isspace():
            at += 1
            continue
        quote = line[at : at + 1] if line[at : at + 1] in (b'"', b"'") else b""
        if quote:
            word, at = _quoted(line, at + 1, quote)
            if word is None or (at < len(line) and not line[at : at + 1].isspace()):
                return None
        else:
            end = at
            while end < len(line) and not line[end : end + 1].isspace():
                end += 1
            word, at = line[at:end], end
        words.append(word)
    return words


_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def _quoted(line: bytes, at: int, quote: bytes) -> tuple[bytes | None, int]:
    """Return what stands from `at` to the closing `quote`, and where that ends."""
    word = bytearray()
    while at < len(line):
        byte, follows = line[at : at + 1], line[at + 1 : at + 2]
        if byte == quote:
            return bytes(word), at + 1
        if byte == b"\\" and quote == b'"' and follows:
            digits = line[at + 2 : at + 4]
            if follows == b"x" and len(digits) == 2 and all(each in b"0123456789abcdefABCDEF" for each in digits):
                word.append(int(digits, 16))
                at += 4
                continue
            word += _ESCAPES.get(follows, follows)
            at += 2
        elif byte == b"\\" and follows == b"'":
            word += b"'"
            at += 2
        else:
            word += byte
            at += 1
    return None, at


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < 12 else None


# -- replies ----------------------------------------------------------------------------------------------------------

OK = b"+OK\r\n"
NULL, NULL3 = b"$-1\r\n", b"_\r\n"  # of RESP2 and RESP3


def error(text: str) -> bytes:
    """Return an error; its first word is its kind. What would steer a terminal is escaped: it may be what was sent."""
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
    return b"-" + line.encode() + b"\r\n"


def simple(text: str) -> bytes:
    return b"+" + text.encode() + b"\r\n"


def integer(number: int) -> bytes:
    return b":%d\r\n" % number


def bulk(value: bytes | None, *, resp3: bool) -> bytes:
    """Return a string of bytes, or that there is none."""
    if value is None:
        return NULL3 if resp3 else NULL
    return b"$%d\r\n%b\r\n" % (len(value), value)


def array(replies: Iterable[bytes]) -> bytes:
    """Return an array of `replies`, which are encoded already."""
    parts = list(replies)
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def mapping(pairs: Mapping[str, bytes], *, resp3: bool) -> bytes:
    """Return a map of encoded replies by name: flat, as RESP2 has no maps."""
    parts = [part for name, value in pairs.items() for part in (bulk(name.encode(), resp3=resp3), value)]
    head = b"%%%d\r\n" % len(pairs) if resp3 else b"*%d\r\n" % len(parts)
    return head + b"".join(parts)
