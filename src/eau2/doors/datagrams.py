"""The UDP protocol: one datagram a request, one a reply, at most once. No sockets, no store, no clock.

    request   0..15 id   16 command   17..48 key, padded with zeros   49..50 length of the value   51.. value
    reply     0..15 id   16 code      then for a GET: 17..18 length, value; for a number: 4 bytes

Numbers are little-endian. The layout is that of UBC's EECE 411.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from eau2.doors.work import Operation, Outcome, Verb
from eau2.errors import DiskFull, Eau2Error, InvalidKey, NodeUnavailable, StoreBusy, ValueTooLarge, WrongKind
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import Hashable

ID_BYTES: Final = 16
KEY_BYTES: Final = 32
VALUE_BYTES_MAX: Final = 10_000
DATAGRAM_BYTES_MAX: Final = 65_535
_COMMAND_AT, _KEY_AT, _LENGTH_AT, _VALUE_AT = 16, 17, 49, 51
_LENGTH = struct.Struct("<H")
_NUMBER = struct.Struct("<I")
_HEX = "hex:"  # a key that is no text; longer than any text of 32 bytes, so that no two keys have one name

KEPT_SECONDS = 5.0  # clients send again for less than a second
KEPT_COUNT_MAX = 200_000
KEPT_BYTES_MAX = 64 << 20
_ENTRY_BYTES = 400  # of memory for a kept reply besides its bytes


class Command(IntEnum):
    """What a request asks for."""

    PUT = 0x01
    GET = 0x02
    REMOVE = 0x03
    SHUTDOWN = 0x04
    WIPE_OUT = 0x05
    IS_ALIVE = 0x06
    PROCESS_ID = 0x07
    MEMBER_COUNT = 0x08


class Code(IntEnum):
    """How a reply begins."""

    SUCCESS = 0x00
    NO_SUCH_KEY = 0x01
    OUT_OF_SPACE = 0x02
    OVERLOADED = 0x03
    INTERNAL_FAILURE = 0x04
    UNKNOWN_COMMAND = 0x05
    INVALID_KEY = 0x06
    INVALID_VALUE = 0x07
    MALFORMED = 0x09


_VERBS = {Command.PUT: Verb.PUT, Command.GET: Verb.GET, Command.REMOVE: Verb.DELETE}
_CODES: dict[type[Eau2Error], Code] = {
    DiskFull: Code.OUT_OF_SPACE,
    StoreBusy: Code.OVERLOADED,
    NodeUnavailable: Code.OVERLOADED,  # ask again: a copy may answer
    InvalidKey: Code.INVALID_KEY,
    ValueTooLarge: Code.INVALID_VALUE,
    WrongKind: Code.INVALID_VALUE,  # a frame, which no datagram takes
    Eau2Error: Code.INTERNAL_FAILURE,
}


class Request(NamedTuple):
    """A datagram that asks for something."""

    id: bytes
    what: Operation | Command  # a Command has no key


class Refused(NamedTuple):
    """A datagram that is no request, and the code that says so."""

    id: bytes
    code: Code


def decode(datagram: bytes) -> Request | Refused:
    """Return what `datagram` asks for. What follows the key of a GET, a REMOVE or a command is passed over."""
    identity = datagram[:ID_BYTES].ljust(ID_BYTES, b"\0")
    if len(datagram) <= _COMMAND_AT:
        return Refused(identity, Code.MALFORMED)
    try:
        command = Command(datagram[_COMMAND_AT])
    except ValueError:
        return Refused(identity, Code.UNKNOWN_COMMAND)
    verb = _VERBS.get(command)
    if verb is None:
        return Request(identity, command)
    if len(datagram) < _LENGTH_AT:
        return Refused(identity, Code.MALFORMED)
    value = b""
    if verb is Verb.PUT:
        if len(datagram) < _VALUE_AT:
            return Refused(identity, Code.MALFORMED)
        value = datagram[_VALUE_AT:]
        if _LENGTH.unpack_from(datagram, _LENGTH_AT)[0] != len(value):
            return Refused(identity, Code.MALFORMED)
        if len(value) > VALUE_BYTES_MAX:
            return Refused(identity, Code.INVALID_VALUE)
    return Request(identity, Operation(verb, key_name(datagram[_KEY_AT:_LENGTH_AT]), value))


def encode(identity: bytes, command: Command, key: bytes = b"", value: bytes | None = None) -> bytes:
    """Return the request; `key` has at most 32 bytes. What a client sends."""
    parts = [identity, bytes([command])]
    if command in _VERBS:
        parts.append(key.ljust(KEY_BYTES, b"\0"))
    if value is not None:
        parts += [_LENGTH.pack(len(value)), value]
    return b"".join(parts)


def key_name(key: bytes) -> str:
    r"""Return the store's key for the 32 bytes of a datagram: their text without the padding, else their digits.

    >>> key_name(b"trips".ljust(32, b"\0")), key_name(b"\x01" * 32)[:12]
    ('trips', 'hex:01010101')
    """
    try:
        return check_key(key.rstrip(b"\0").decode())
    except (UnicodeDecodeError, InvalidKey):
        return _HEX + key.ljust(KEY_BYTES, b"\0").hex()


def answer(request: Request, outcome: Outcome) -> bytes:
    """Return the reply to an operation, of which `outcome` came."""
    if isinstance(outcome, Eau2Error):
        return reply(request.id, code_of(outcome))
    if isinstance(outcome, bytes):
        if len(outcome) > VALUE_BYTES_MAX:
            return reply(request.id, Code.INVALID_VALUE)
        return reply(request.id, Code.SUCCESS, _LENGTH.pack(len(outcome)) + outcome)
    return reply(request.id, Code.SUCCESS if outcome else Code.NO_SUCH_KEY)


def number(identity: bytes, value: int) -> bytes:
    """Return the reply that is a number, of 32 bits."""
    return reply(identity, Code.SUCCESS, _NUMBER.pack(value & 0xFFFFFFFF))


def reply(identity: bytes, code: Code, rest: bytes = b"") -> bytes:
    return b"%b%c%b" % (identity, code, rest)


def code_of(failure: Eau2Error) -> Code:
    """Return the code for what the store raised."""
    return next(_CODES[kind] for kind in type(failure).__mro__ if kind in _CODES)


class Reply(NamedTuple):
    """What came back. `value` is that of a GET or the number, and empty otherwise."""

    code: int
    value: bytes | int


def decode_reply(command: Command, datagram: bytes) -> Reply | None:
    """Return what `datagram` says of a `command`, its id apart; None when it is no reply."""
    if len(datagram) <= _COMMAND_AT:
        return None
    code, rest = datagram[_COMMAND_AT], datagram[_COMMAND_AT + 1 :]
    if code != Code.SUCCESS:
        return Reply(code, b"")
    if command is Command.GET:
        if len(rest) < _LENGTH.size or _LENGTH.unpack_from(rest)[0] != len(rest) - _LENGTH.size:
            return None
        return Reply(code, rest[_LENGTH.size :])
    if command in (Command.PROCESS_ID, Command.MEMBER_COUNT):
        return Reply(code, _NUMBER.unpack(rest)[0]) if len(rest) == _NUMBER.size else None
    return Reply(code, b"")


class Standing(Enum):
    """How a request stands that has no reply yet."""

    NEW = "new"  # to be done, and `finish` told of its reply
    WORKING = "working"  # sent again while it is being done: to be dropped
    FULL = "full"  # no reply of it could be kept: it must not be done


class Replies:
    """The replies of the last seconds, by who asked and the id: what comes again is answered again, and not done again.

    Bounded in number and bytes; also what is being done counts. Times are seconds on any clock that only grows.
    Not thread-safe.
    """

    def __init__(self, *, count_max: int = KEPT_COUNT_MAX, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._count_max, self._bytes_max = count_max, bytes_max
        self._working: set[Hashable] = set()
        self._kept: OrderedDict[Hashable, tuple[float, bytes]] = OrderedDict()  # in the order they came
        self._bytes = 0  # of those kept, and the most that those being done will take

    def begin(self, asker: Hashable, identity: bytes, now: float) -> bytes | Standing:
        """Return the reply to send again, or how the request stands."""
        self._let_go(now)
        which = (asker, identity)
        kept = self._kept.get(which)
        if kept is not None:
            return kept[1]
        if which in self._working:
            return Standing.WORKING
        if len(self._kept) + len(self._working) >= self._count_max or self._bytes + _REPLY_MAX > self._bytes_max:
            return Standing.FULL
        self._working.add(which)
        self._bytes += _REPLY_MAX
        return Standing.NEW

    def finish(self, asker: Hashable, identity: bytes, reply: bytes, now: float) -> None:
        """Keep `reply`, which is sent now; but not that nothing was done, for then it may be when it is asked again."""
        which = (asker, identity)
        self._working.remove(which)
        if reply[_COMMAND_AT : _COMMAND_AT + 1] == bytes([Code.OVERLOADED]):
            self._bytes -= _REPLY_MAX
            return
        self._kept[which] = now, reply
        self._bytes += len(reply) + _ENTRY_BYTES - _REPLY_MAX

    def _let_go(self, now: float) -> None:
        while self._kept:
            which, (since, reply) = next(iter(self._kept.items()))
            if now - since < KEPT_SECONDS:
                return
            del self._kept[which]
            self._bytes -= len(reply) + _ENTRY_BYTES


_REPLY_MAX = _COMMAND_AT + 1 + _LENGTH.size + VALUE_BYTES_MAX + _ENTRY_BYTES
