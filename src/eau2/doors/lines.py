"""CRUD lines, the text protocol: bytes in, requests out, and the bytes of their replies. No sockets, no store.

C key value | U key value     OK, or EXISTS | MISSING; the value is the rest of the line, or #LENGTH and then bytes
R key                         VALUE LENGTH, then as many bytes, or MISSING
D key                         OK | MISSING
AUTH token                    OK; the first line, where the door has tokens
DONE                          BYE
anything else                 ERROR reason; the connection stays open
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from eau2.doors.tokens import Role
from eau2.doors.work import Asked, Operation, Outcome, Plain, Said, Verb
from eau2.errors import Eau2Error, InvalidKey
from eau2.store.store import VALUE_BYTES_MAX
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.doors.tokens import Access

LINE_BYTES_MAX = 64 << 10  # without its end; longer values come with their length
_WHO = "say AUTH and a token first"
_VERBS = {b"C": Verb.CREATE, b"R": Verb.GET, b"U": Verb.UPDATE, b"D": Verb.DELETE}
_WITH_VALUE = frozenset((Verb.CREATE, Verb.UPDATE))
_LENGTH = re.compile(rb"#([0-9]+)\Z")
_LENGTH_DIGITS_MAX = 18
# How browsers begin: a page that somebody looks at on this machine must not get its lines done.
_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE) .* HTTP/|Host:", re.IGNORECASE)


class Refused(NamedTuple):
    """A request that is none: the reply says why, and nothing is done."""

    reason: str
    ends: bool = False  # and the connection, for what follows means nothing


class Identify(NamedTuple):
    """AUTH: who asks has this token."""

    token: str


class Goodbye(NamedTuple):
    """DONE: what was asked before is answered, and the connection closed."""


Request = Operation | Refused | Identify | Goodbye


class Lines:
    """The requests of one connection, in order, however the bytes were cut on their way.

    What is refused ends where its line does, or after the bytes it announced: the next request is read as if nothing
    had been. Holds at most a line and a value.
    """

    def __init__(self) -> None:
        self.trusted = True  # False: announced values are passed over, and not kept
        self._received = bytearray()
        self._searched = 0  # of it, bytes that have no line end
        self._awaited: tuple[Operation, int] | None = None  # a request whose value, and its line end, are to come
        self._skipping = 0  # bytes of a value that was refused
        self._ending = ""  # what was refused lasts until the next line end; why

    @property
    def amid(self) -> bool:
        """Whether a request has begun that has not ended."""
        return bool(self._received or self._awaited or self._skipping or self._ending)

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that end in `data`, which follows what was fed before."""
        return list(self.requests(data))

    def requests(self, data: bytes) -> Iterator[Request]:
        """Yield what `feed` returns; each before the next is looked at."""
        self._received += data
        while (request := self._next()) is not None:
            yield request

    def end(self) -> list[Request]:
        """Return what to answer when no more bytes come: a request that is cut off is refused, for it may be wrong."""
        if not self.amid:
            return []
        self.__init__()  # type: ignore[misc]
        return [Refused("the connection ended within a request, which was not done")]

    # -- private ------------------------------------------------------------------------------------------------------

    def _next(self) -> Request | None:
        while True:
            if self._skipping:
                skipped = min(self._skipping, len(self._received))
                self._drop(skipped)
                self._skipping -= skipped
                if self._skipping:
                    return None
            if self._awaited is not None:
                request = self._with_value(*self._awaited)
                if request is not None or self._awaited is not None:
                    return request
            line = self._line()
            if line is None:
                return None
            if self._ending:
                reason, self._ending = self._ending, ""
                return Refused(reason)
            read = self._read(line)
            if read is not None:
                return read

    def _line(self) -> bytes | None:
        """Take the next line, without its end. Of one that is too long what has come is let go."""
        end = self._received.find(b"\n", self._searched)
        length = len(self._received) if end < 0 else end
        # The last byte may be the CR of a line end.
        if length > LINE_BYTES_MAX + 1 and not self._ending:
            self._ending = f"a line has at most {LINE_BYTES_MAX:,} bytes; a longer value comes as #LENGTH and its bytes"
        if end < 0:
            if self._ending:
                self._drop(length)
            self._searched = len(self._received)
            return None
        line = bytes(self._received[:end])
        self._drop(end + 1)
        line = line.removesuffix(b"\r")
        if len(line) > LINE_BYTES_MAX and not self._ending:
            self._ending = f"a line has at most {LINE_BYTES_MAX:,} bytes; a longer value comes as #LENGTH and its bytes"
        return line

    def _read(self, line: bytes) -> Request | None:
        """Return the request that `line` is; None when there is more of it: a value that is to be read, or skipped."""
        name, _, rest = line.partition(b" ")
        if name == b"DONE" and not rest.strip(b" "):
            return Goodbye()
        if name == b"AUTH" and rest:
            return Identify(rest.decode("utf-8", "surrogateescape").strip(" "))
        verb = _VERBS.get(name)
        if verb is None:
            if _HTTP.match(line):
                return Refused("this is no HTTP", ends=True)
            return Refused("a request begins with C, R, U, D or DONE")
        text, blank, value = rest.partition(b" ")
        try:
            key = check_key(text.decode())
        except UnicodeDecodeError:
            return self._refused("a key is text in UTF-8", verb, value)
        except InvalidKey as error:
            return self._refused(reason(error), verb, value)
        if verb in _WITH_VALUE:
            return self._change(Operation(verb, key, value)) if blank else Refused(f"{name.decode()} lacks a value")
        if value.strip(b" "):
            return Refused(f"{name.decode()} takes a key and nothing after it")
        return Operation(verb, key)

    def _change(self, request: Operation) -> Request | None:
        announced = _LENGTH.match(request.value)
        if announced is None:
            return request
        if len(announced[1]) > _LENGTH_DIGITS_MAX:
            return Refused("no value is so long", ends=True)
        if not self.trusted:
            return self._refused(_WHO, request.verb, request.value)
        length = int(announced[1])
        if length > VALUE_BYTES_MAX:
            why = f"a value has at most {VALUE_BYTES_MAX:,} bytes, not {length:,}"
            return self._refused(why, request.verb, request.value)
        self._awaited = request, length
        return None

    def _refused(self, why: str, verb: Verb, value: bytes) -> Refused | None:
        """Refuse a request for `why`, and what it announces as well."""
        announced = _LENGTH.match(value) if verb in _WITH_VALUE else None
        if announced is None:
            return Refused(why)
        if len(announced[1]) > _LENGTH_DIGITS_MAX:
            return Refused(why, ends=True)
        self._skipping, self._ending = int(announced[1]), why
        return None

    def _with_value(self, request: Operation, length: int) -> Request | None:
        """Return `request` with its value of `length` bytes; None when not all of it has come, or no line end follows,
        and then nothing is awaited any more."""
        received = self._received
        if len(received) <= length:
            return None
        end = length
        if received[end] == 13:  # CR
            if len(received) == end + 1:
                return None
            end += 1
        self._awaited = None
        if received[end] != 10:
            self._drop(length)
            self._ending = f"no line end follows the {length:,} bytes of the value"
            return None
        value = bytes(memoryview(received)[:length])
        self._drop(end + 1)
        return request._replace(value=value)

    def _drop(self, size: int) -> None:
        del self._received[:size]
        self._searched = 0


class LinesConversation:
    """A `Conversation` by CRUD lines."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lines = Lines()
        self._ended = False  # what follows is not read, nor is a token in it tried

    @property
    def amid(self) -> bool:
        return self._lines.amid

    def feed(self, data: bytes) -> list[Said | Asked]:
        found: list[Said | Asked] = []
        if self._ended:
            return found
        self._lines.trusted = self._access.role > Role.NOTHING
        for request in self._lines.requests(data):
            found.append(meant := self._meant(request))
            if isinstance(meant, Said) and meant.ends:
                self._ended = True
                break
            self._lines.trusted = self._access.role > Role.NOTHING
        return found

    def begins(self, data: bytes) -> None:
        return None

    @property
    def absent(self) -> bytes:
        return b""

    def plain(self, data: bytes) -> Plain | None:
        return None

    def end(self) -> list[Said | Asked]:
        return [] if self._ended else [self._meant(request) for request in self._lines.end()]

    def error(self, why: str) -> bytes:
        return error(why)

    def _meant(self, request: Request) -> Said | Asked:
        if isinstance(request, Operation):
            wanted = Role.READ if request.verb is Verb.GET else Role.WRITE
            why = self._access.refusal(wanted, _WHO)
            return Said(error(why)) if why else Asked(request, partial(answer, request.verb))
        if isinstance(request, Identify):
            return Said(b"OK\n" if self._access.identify(request.token) else error("the token is not known here"))
        if isinstance(request, Refused):
            return Said(error(request.reason), request.ends)
        return Said(b"BYE\n", ends=True)


def answer(verb: Verb, outcome: Outcome) -> bytes:
    """Return the reply to an operation."""
    if isinstance(outcome, Eau2Error):
        return error(reason(outcome))
    if verb is Verb.GET and isinstance(outcome, bytes):
        return b"VALUE %d\n%b\n" % (len(outcome), outcome)
    if outcome is True:
        return b"OK\n"
    return b"EXISTS\n" if verb is Verb.CREATE else b"MISSING\n"


def error(why: str) -> bytes:
    return b"ERROR " + why.encode("utf-8", "backslashreplace") + b"\n"


def reason(failure: Eau2Error) -> str:
    """Return `failure` on one line, without what would steer a terminal."""
    return "".join(each if each.isprintable() else " " for each in str(failure))
