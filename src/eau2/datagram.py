"""A client of the UDP door of `eau2 serve`, or of any server of that protocol (docs/doors.md)."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from eau2.doors.datagrams import (
    DATAGRAM_BYTES_MAX,
    ID_BYTES,
    KEY_BYTES,
    VALUE_BYTES_MAX,
    Code,
    Command,
    decode_reply,
    encode,
)
from eau2.errors import (
    DiskFull,
    Eau2Error,
    InvalidKey,
    KeyMissing,
    NodeUnavailable,
    OutcomeUnknown,
    StoreBusy,
    ValueTooLarge,
)

if TYPE_CHECKING:
    from types import TracebackType

RETRY_SECONDS = (0.1, 0.2, 0.4, 0.8)  # how long an answer is waited for, at the first time and when asked again
_CHANGES = frozenset((Command.PUT, Command.REMOVE, Command.SHUTDOWN, Command.WIPE_OUT))


class Client:
    """Asks the server at `host`:`port`, and again with the same id where no answer comes. A context manager.

    Each call takes at most as long as `retry_seconds` together, and twice that when the server is overloaded. Besides
    what each says it raises NodeUnavailable when nobody answers (OutcomeUnknown where something may have been changed),
    StoreBusy when the server is overloaded, and Eau2Error for what it answers otherwise. Not thread-safe.
    """

    def __init__(self, host: str, port: int, *, retry_seconds: tuple[float, ...] = RETRY_SECONDS) -> None:
        self._retry_seconds = retry_seconds
        self._name = f"{host}:{port}"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except (OSError, UnicodeError) as error:
            raise NodeUnavailable(f"no address is known for {host!r}: {error}") from None
        self._socket = socket.socket(family, kind, protocol)
        self._socket.connect(address)  # datagrams of others are not for us

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self._name} by UDP>"

    def close(self) -> None:
        self._socket.close()

    def put(self, key: str | bytes, value: bytes) -> None:
        """Put `value`, of at most 10,000 bytes, under `key`, of at most 32. InvalidKey, ValueTooLarge, DiskFull."""
        if len(value) > VALUE_BYTES_MAX:
            raise ValueTooLarge(f"{key!r}: {len(value):,} bytes are over the {VALUE_BYTES_MAX:,} of a datagram")
        self._ask(Command.PUT, key, bytes(value))

    def get(self, key: str | bytes) -> bytes:
        """Return what is under `key`. KeyMissing; ValueTooLarge for a frame, and for more than 10,000 bytes."""
        value = self._ask(Command.GET, key)
        assert isinstance(value, bytes)
        return value

    def remove(self, key: str | bytes) -> bool:
        """Delete `key`; return whether anything was there."""
        try:
            self._ask(Command.REMOVE, key)
        except KeyMissing:
            return False
        return True

    def is_alive(self) -> bool:
        """Whether anybody answers."""
        try:
            self._ask(Command.IS_ALIVE)
        except NodeUnavailable:
            return False
        return True

    def process_id(self) -> int:
        return int(self._ask(Command.PROCESS_ID))

    def member_count(self) -> int:
        """Return how many nodes the store has."""
        return int(self._ask(Command.MEMBER_COUNT))

    def shut_down(self) -> None:
        """Have the server stop, where it was started with --allow-shutdown and is on this machine."""
        self._ask(Command.SHUTDOWN)

    def wipe_out(self) -> None:
        """Delete all keys, where the server was started with --allow-wipe."""
        self._ask(Command.WIPE_OUT)

    # -- private ------------------------------------------------------------------------------------------------------

    def _ask(self, command: Command, key: str | bytes = b"", value: bytes | None = None) -> bytes | int:
        name = key.encode() if isinstance(key, str) else bytes(key)
        if len(name) > KEY_BYTES:
            raise InvalidKey(f"{key!r}: {len(name)} bytes are over the {KEY_BYTES} of a datagram's key")
        identity = os.urandom(ID_BYTES)
        request = encode(identity, command, name, value)
        for number, seconds in enumerate(self._retry_seconds, 1):
            reply = self._once(request, identity, seconds)
            found = None if reply is None else decode_reply(command, reply)
            if found is None:
                continue
            if found.code == Code.OVERLOADED and number < len(self._retry_seconds):
                time.sleep(seconds)
                continue
            if found.code != Code.SUCCESS:
                raise _error(found.code, key, self._name)
            return found.value
        asked = f"{self._name} did not answer {command.name} within {sum(self._retry_seconds):g} seconds"
        if command in _CHANGES:
            raise OutcomeUnknown(asked, hint="it may have been done: read it again")
        raise NodeUnavailable(asked, hint="is the server running, and its UDP door open?")

    def _once(self, request: bytes, identity: bytes, seconds: float) -> bytes | None:
        """Send `request`; return what answers it within `seconds`, or None."""
        deadline = time.monotonic() + seconds
        try:
            self._socket.send(request)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                reply = self._socket.recv(DATAGRAM_BYTES_MAX)
                if reply[:ID_BYTES] == identity:
                    return reply
        except TimeoutError:
            return None
        except ConnectionRefusedError:  # nobody listens there now; perhaps it is being started again
            time.sleep(max(0.0, deadline - time.monotonic()))
        return None


def _error(code: int, key: str | bytes, server: str) -> Eau2Error:
    if code == Code.NO_SUCH_KEY:
        return KeyMissing(f"no value under {key!r} at {server}")
    if code == Code.INVALID_KEY:
        return InvalidKey(f"{server} takes no key {key!r}")
    if code == Code.INVALID_VALUE:
        return ValueTooLarge(f"{key!r}: a frame, or over the {VALUE_BYTES_MAX:,} bytes of a datagram, at {server}")
    if code == Code.OUT_OF_SPACE:
        return DiskFull(f"{key!r}: the disk of {server} is full")
    if code == Code.OVERLOADED:
        return StoreBusy(f"{server} has too much to do", hint="ask again later")
    name = Code(code).name.lower().replace("_", " ") if code in set(Code) else "no code of the protocol"
    return Eau2Error(f"{server} answered {code:#04x}: {name}")
