"""What a node keeps for drivers: chunks that they staged and have not written, and chunks of frames that they hold.

A driver on the machine maps a chunk's file itself, and the mapping is its lease. For one that is elsewhere the node
keeps the chunk mapped, so that a frame that is held stays readable when it is replaced or deleted. A driver that is not
heard of for `SILENT_SECONDS` is taken to have ended, and what was kept for it goes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from eau2.store.nodes import Staged

SILENT_SECONDS = 120.0


@dataclass(slots=True)
class _Driver:
    heard: float
    staged: dict[str, Staged] = field(default_factory=dict)  # by path
    lent: dict[str, dict[str, pa.Buffer]] = field(default_factory=dict)  # by the name of the lease: chunks by id


class Lending:
    """Who has what of one node. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what is below
        self._drivers: dict[str, _Driver] = {}

    def _driver(self, client: str, now: float) -> _Driver:
        found = self._drivers.setdefault(client, _Driver(now))
        found.heard = now
        return found

    def hear(self, client: str, now: float) -> None:
        """Driver `client` is alive."""
        with self._lock:
            if client in self._drivers:
                self._drivers[client].heard = now

    def staged(self, client: str, now: float, chunk: Staged) -> None:
        """Take note of a chunk that `client` has staged."""
        with self._lock:
            self._driver(client, now).staged[chunk.path] = chunk

    def discarded(self, client: str, chunks: Sequence[Staged]) -> None:
        """Forget staged chunks: they were written, or are discarded."""
        with self._lock:
            if client in self._drivers:
                for chunk in chunks:
                    self._drivers[client].staged.pop(chunk.path, None)

    def lend(self, client: str, now: float, lease: str, chunks: dict[str, pa.Buffer]) -> None:
        """Keep `chunks` until the lease is given back."""
        with self._lock:
            self._driver(client, now).lent[lease] = chunks

    def lent(self, client: str, now: float, lease: str, chunk_id: str) -> pa.Buffer | None:
        """Return a chunk of a lease; None when it is not lent, or not any more."""
        with self._lock:
            return self._driver(client, now).lent.get(lease, {}).get(chunk_id)

    def give_back(self, client: str, leases: Sequence[str]) -> None:
        with self._lock:
            if client in self._drivers:
                for lease in leases:
                    self._drivers[client].lent.pop(lease, None)

    def leave(self, client: str) -> list[Staged]:
        """Forget driver `client`; return what it has staged."""
        with self._lock:
            found = self._drivers.pop(client, None)
        return [] if found is None else list(found.staged.values())

    def overdue(self, now: float) -> list[Staged]:
        """Forget drivers that are not heard of any more; return what they have staged."""
        with self._lock:
            gone = [name for name, driver in self._drivers.items() if now - driver.heard > SILENT_SECONDS]
            return [staged for name in gone for staged in self._drivers.pop(name).staged.values()]
