"""Has anybody written since? What the server said last, and a stream of it while somebody waits."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error

if TYPE_CHECKING:
    from pyarrow import flight

    from eau2.served.connection import Connection

_STREAM_SECONDS = 3600.0  # then it is asked for anew
_AGAIN_SECONDS = 0.2
_LINGER_SECONDS = 10.0  # for which the stream outlives the last who waited


class Watch:
    """A number that grows with everything that is heard to have been written. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changed = threading.Condition()  # guards everything below
        self._number = 0
        self._heard: object = None
        self._waiters = 0
        self._waited = 0.0
        self._closed = False
        self._listener: threading.Thread | None = None
        self._reader: flight.FlightStreamReader | None = None

    def number(self) -> int:
        return self._number

    def bump(self) -> None:
        """We have written."""
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def heard(self, generation: object) -> None:
        """The server's store is at `generation`, which says no more than whether it is another."""
        if generation != self._heard:
            with self._changed:
                self._heard = generation
                self._number += 1
                self._changed.notify_all()

    def wait(self, since: int, timeout_seconds: float) -> None:
        """Return when the number is not `since`, when the time is over, or when closed."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._waiters += 1
            try:
                if self._listener is None and not self._closed:
                    # It hears where the server is first: what was written before it listened counts as written.
                    self._listener = threading.Thread(target=self._listen, name="eau2-served-watch", daemon=True)
                    self._listener.start()
                while not self._closed and self._number == since:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return
                    self._changed.wait(min(left, 2.0))  # Ctrl-C may be given to another thread
            finally:
                self._waiters -= 1
                self._waited = time.monotonic()

    def close(self) -> None:
        """Wake everybody, and end the stream."""
        with self._changed:
            self._closed = True
            listener, reader = self._listener, self._reader
            self._changed.notify_all()
        if reader is not None:
            reader.cancel()
        if listener is not None:
            listener.join(1.0)

    # -- private ------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            try:
                self._listen_once()
            except Eau2Error:  # who waits looks again, and hears it from the server
                self.bump()
            with self._changed:
                if self._is_over():
                    self._listener = None
                    return
                self._changed.wait(_AGAIN_SECONDS)

    def _is_over(self) -> bool:
        return self._closed or (not self._waiters and time.monotonic() - self._waited > _LINGER_SECONDS)

    def _listen_once(self) -> None:
        with self._connection.stream({"watch": True}, seconds=_STREAM_SECONDS) as stream:
            with self._changed:
                if self._closed:
                    return
                self._reader = stream.reader
            try:
                for said in stream:
                    self.heard(("watched", said.to_pybytes()))
                    if self._is_over():
                        return
            finally:
                with self._changed:
                    self._reader = None
