"""Tells the clients of a server that something was written."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import flight

from eau2.errors import Eau2Error
from eau2.served import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.store.store import Store

LOOK_SECONDS = 1.0
WATCHERS_MAX = 5_000  # each has a thread of gRPC's


class Watch:
    """Tells clients that something was written: one thread looks, for all of them."""

    def __init__(self, store: Store, ending: threading.Event) -> None:
        self._store, self._ending = store, ending
        self._changed = threading.Condition()  # guards both below
        self._number = 0
        self._watchers = 0

    def look(self, seconds: float = LOOK_SECONDS) -> None:
        """Wait until something is written, at most `seconds`; without anybody who wants to know, just wait."""
        try:
            number = self._store.node.generation()
            if self._watchers and number == self._number:
                number = self._store.node.wait_for_write(number, seconds)
            with self._changed:
                if number != self._number:
                    self._number = number
                    self._changed.notify_all()
                elif not self._watchers:
                    self._changed.wait(seconds)
        except Eau2Error:  # the store was closed, or cannot be asked now
            self._ending.wait(seconds)

    def numbers(self) -> Iterator[pa.RecordBatch]:
        """Yield something whenever something was written, and every LOOK_SECONDS."""
        with self._changed:
            if self._watchers >= WATCHERS_MAX:
                raise flight.FlightUnavailableError(f"{WATCHERS_MAX:,} clients watch already")
            self._watchers += 1
            self._changed.notify_all()  # who waits for somebody who wants to know
        try:
            last = None
            while not self._ending.is_set():
                with self._changed:
                    if self._number == last:
                        self._changed.wait(LOOK_SECONDS)
                    last = self._number
                yield wire.piece(pa.py_buffer(b"%d" % last))
        finally:
            with self._changed:
                self._watchers -= 1

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
