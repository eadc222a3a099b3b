"""The calls of a Flight server: how many at once, how their errors are told, and what ends when a client goes."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import flight

from eau2.doors.flight_errors import told_to_client
from eau2.errors import Eau2Error, InvalidValue, StoreBusy
from eau2.query.waiting import Asker
from eau2.served.wire import described

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS_MAX = 512  # at once: each has a thread
TURN_SECONDS = 10.0  # for which a call waits for one of them to end
OWN_LENGTH_MAX = 1_500  # of what is said of an error: gRPC has it in headers, which clients take up to 8 KiB of


class Calls:
    """The calls that are under way. Thread-safe."""

    def __init__(self) -> None:
        self.ending = threading.Event()
        self.latest = 0.0  # when one began or ended last, by `time.monotonic`
        self._room = threading.Semaphore(CALLS_MAX)
        self._lock = threading.Lock()  # guards the line below, and that the contexts in it are still alive
        self._asking: dict[Asker, Any] = {}

    @contextmanager
    def one(self, *, own: bool = False) -> Iterator[None]:
        """A call: raises its errors as ones of Flight, whole to our `own` client. Refused beyond CALLS_MAX."""
        if self.ending.is_set():
            raise flight.FlightUnavailableError("the server ends")
        if not self._room.acquire(timeout=TURN_SECONDS):
            raise own_error(StoreBusy(f"the server does {CALLS_MAX} things at once", hint="ask again"))
        self.latest = time.monotonic()
        try:
            with told_to_client():
                if own:
                    with _told_whole():
                        yield
                else:
                    yield
        except OSError as error:  # of the connection: nobody is there to be told
            raise flight.FlightCancelledError(str(error)) from None
        finally:
            self.latest = time.monotonic()
            self._room.release()

    def rows(self, context: Any, batches: Iterator[Any], *, own: bool = False) -> Iterator[Any]:
        """Yield `batches` to the client of `context`. What they wait for of the engine ends when the client goes."""
        asker = Asker()
        with self._lock:
            self._asking[asker] = context
        try:
            with self.one(own=own):
                while (batch := asker.run(lambda: next(batches, None))) is not None:
                    yield batch
        finally:
            with self._lock:
                del self._asking[asker]

    def look(self) -> None:
        """End the queries of clients that have gone; all when the server ends."""
        with self._lock:
            for asker, context in self._asking.items():
                if self.ending.is_set() or context.is_cancelled():
                    asker.leave()


@contextmanager
def _told_whole() -> Iterator[None]:
    """Raise errors of eau2 with all that our own client makes them again of."""
    try:
        yield
    except pa.ArrowException as error:
        if isinstance(error, flight.FlightError):
            raise
        raise own_error(InvalidValue(f"Arrow does not take it: {error}")) from None
    except Eau2Error as error:
        raise own_error(error) from None


def own_error(error: Eau2Error) -> flight.FlightError:
    """Return the error that `eau2.served` makes `error` of."""
    said = described(error)
    for name in ("message", "hint"):
        said[name] = said[name] if len(said[name]) <= OWN_LENGTH_MAX else said[name][:OWN_LENGTH_MAX] + "..."
    return flight.FlightServerError(error.message[:200], extra_info=json.dumps(said).encode())
