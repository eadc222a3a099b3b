"""How each door is asked, and the bytes that it must answer: for clients that check every reply.

A new TCP door is one more class here, and a name in TALKS.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from eau2.datagram import Command
from eau2.doors.datagrams import Code, encode


class Deed(NamedTuple):
    """create, update, put, get or delete of a key of one's own; increment of a counter that all share."""

    verb: str
    key: str
    value: bytes = b""

    def done(self, keys: dict[str, bytes]) -> bytes | bool | None:
        """Do it to `keys`; return what came of it."""
        there = keys.get(self.key)
        if self.verb == "get":
            return there
        if self.verb == "delete":
            return keys.pop(self.key, None) is not None
        if self.verb != "put" and (there is None) != (self.verb == "create"):
            return False
        keys[self.key] = self.value
        return True


class Talk(Protocol):
    """One TCP door's protocol, as bytes."""

    verbs: tuple[str, ...]
    idle: tuple[bytes, bytes]  # a request that keeps a connection, and its reply
    goodbye: tuple[bytes, bytes]
    cut: bytes  # of a request that would put something under `cut`, the beginning
    large: bytes  # asks for the value under `large`

    def asked(self, deed: Deed) -> bytes: ...
    def answered(self, deed: Deed, outcome: bytes | bool | None) -> bytes: ...
    def number(self, line: bytes) -> int:
        """Return the number that an increment came to."""


class Lines:
    """CRUD lines."""

    verbs = ("create", "update", "get", "delete")
    idle = b"R none\n", b"MISSING\n"
    goodbye = b"DONE\n", b"BYE\n"
    cut = b"C cut #100\nabc"
    large = b"R large\n"

    def asked(self, deed):
        key = deed.key.encode()
        if deed.verb in ("get", "delete"):
            return b"%b %b\n" % (b"R" if deed.verb == "get" else b"D", key)
        return b"%b %b #%d\n%b\n" % (b"C" if deed.verb == "create" else b"U", key, len(deed.value), deed.value)

    def answered(self, deed, outcome):
        if isinstance(outcome, bytes):
            return b"VALUE %d\n%b\n" % (len(outcome), outcome)
        return b"OK\n" if outcome else b"EXISTS\n" if deed.verb == "create" else b"MISSING\n"

    def number(self, line):
        raise NotImplementedError


_OF_REDIS = {"get": b"GET", "delete": b"DEL", "create": b"SETNX", "update": b"SET", "increment": b"INCR"}


class Redis:
    """RESP2."""

    verbs = ("create", "update", "get", "delete", "increment")
    idle = b"PING\r\n", b"+PONG\r\n"
    goodbye = b"QUIT\r\n", b"+OK\r\n"
    cut = b"*3\r\n$3\r\nSET\r\n$3\r\ncut\r\n$100\r\nabc"
    large = b"GET large\r\n"

    def asked(self, deed):
        words = [_OF_REDIS[deed.verb], deed.key.encode()]
        words += [deed.value] if deed.verb in ("create", "update") else []
        words += [b"XX"] if deed.verb == "update" else []
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)

    def answered(self, deed, outcome):
        if deed.verb == "get":
            return b"$-1\r\n" if outcome is None else b"$%d\r\n%b\r\n" % (len(outcome), outcome)
        if deed.verb == "update":
            return b"+OK\r\n" if outcome else b"$-1\r\n"
        return b":%d\r\n" % outcome

    def number(self, line):
        assert line[:1] == b":", line
        return int(line[1:])


TALKS: dict[str, Talk] = {"crud": Lines(), "redis": Redis()}


class Datagrams:
    """What is asked by UDP, and what must come back; both without the id."""

    verbs = ("put", "get", "delete")

    def asked(self, identity, deed):
        command = {"put": Command.PUT, "get": Command.GET, "delete": Command.REMOVE}[deed.verb]
        return encode(identity, command, deed.key.encode(), deed.value if deed.verb == "put" else None)

    def answered(self, identity, deed, outcome):
        if outcome is None or outcome is False:
            return identity + bytes([Code.NO_SUCH_KEY])
        value = len(outcome).to_bytes(2, "little") + outcome if isinstance(outcome, bytes) else b""
        return identity + bytes([Code.SUCCESS]) + value
