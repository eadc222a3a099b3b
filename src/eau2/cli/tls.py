"""A connection by TLS to a door for CRUD lines."""

import select
import socket
import ssl
import threading

from eau2.doors.lines import Goodbye, Lines, Refused, Request, error
from eau2.errors import InvalidOption

_SILENT_SECONDS = 60.0  # without a reply while some are awaited


def trusting(ca: str) -> ssl.SSLContext:
    """Return what trusts the servers for which the file `ca` vouches. InvalidOption."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidOption(f"{ca} has no certificates: {error}") from None


class TlsDoor:
    """What of a socket the client of lines uses, for a thread that sends and one that receives.

    By TLS a server that is told that nothing more comes answers nothing more. So `shutdown` first waits for the
    replies, of which each request has one, and says itself what the server says of a request that is cut off.
    """

    def __init__(self, door: ssl.SSLSocket) -> None:
        door.setblocking(False)
        self._door = door
        self._calling = threading.Lock()  # OpenSSL's connection is for one thread at a time
        self._lines = Lines()  # what is sent, to count the requests
        self._over = False  # a request was the last that the server reads
        self._come = threading.Condition()  # guards the following
        self._awaited = 0  # replies
        self._replies = _Replies()
        self._ended = False  # nothing more comes
        self._last = b""  # what we say at the end

    def __enter__(self) -> "TlsDoor":
        return self

    def __exit__(self, *raised: object) -> None:
        self._door.close()

    def fileno(self) -> int:
        return self._door.fileno()

    def sendall(self, data: bytes) -> None:
        self._count(data)
        left = memoryview(data)
        while left:
            try:
                with self._calling:
                    sent = self._door.send(left)
            except ssl.SSLError as want:
                self._wait(want)
            else:
                left = left[sent:]

    def recv(self, size: int) -> bytes:
        while True:
            try:
                with self._calling:
                    data = self._door.recv(size)
                break
            except ssl.SSLError as want:
                self._wait(want)
        with self._come:
            self._replies.feed(data)
            self._ended = not data
            self._come.notify_all()
            if not data:
                data, self._last = self._last, b""
        return data

    def shutdown(self, how: int) -> None:
        """Wait for the replies to all that was sent, then end both directions. OSError when they do not come."""
        with self._come:
            while (count := self._replies.count) < self._awaited:
                if self._ended or not self._come.wait(_SILENT_SECONDS):
                    break
            self._last = b"" if self._over else b"".join(map(_told, self._lines.end()))
        # Not that of the SSLSocket, which would let the other thread read what is encrypted.
        socket.socket.shutdown(self._door, socket.SHUT_RDWR)
        if count < self._awaited:
            raise TimeoutError("replies are missing")

    def _count(self, data: bytes) -> None:
        requests = [] if self._over else self._lines.feed(data)
        for number, request in enumerate(requests, 1):
            if isinstance(request, Goodbye) or (isinstance(request, Refused) and request.ends):
                self._over = True
                del requests[number:]
                break
        with self._come:
            self._awaited += len(requests)

    def _wait(self, want: ssl.SSLError) -> None:
        """Wait until what `want` says is there; raise it when it is a failure."""
        if isinstance(want, ssl.SSLWantReadError):
            select.select([self._door], [], [])
        elif isinstance(want, ssl.SSLWantWriteError):
            select.select([], [self._door], [])
        else:
            raise want


class _Replies:
    """Counts the replies in what is received, however it is cut."""

    def __init__(self) -> None:
        self.count = 0
        self._line = bytearray()  # that has begun
        self._left = 0  # bytes of a value, and its line end

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                self.count += not self._left
                at += taken
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            at = end or len(data)
            if end:
                if self._line.startswith(b"VALUE "):
                    self._left = int(self._line[6:]) + 1
                else:
                    self.count += 1
                self._line.clear()


def _told(request: Request) -> bytes:
    return error(request.reason) if isinstance(request, Refused) else b""
