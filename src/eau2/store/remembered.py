"""What a process has read of small values, as long as nobody writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.store.database import SMALL_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eau2.store.nodes import Entry

_BYTES = 48 << 20  # about; SQLite has another 32 MB of pages
_ENTRY_BYTES = 330  # of an entry with a key of usual length, besides its payload
_NONE = -1


class Remembered:
    """Entries as they were read from kept transactions, while `started` was `at`; see `generation.py`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing."""
        self._begin(_NONE)

    def add(self, started: int, entries: Mapping[str, Entry]) -> None:
        """Remember of `entries` those that are small, and that all others are of another moment if `at` is another."""
        if started != self.at or self._bytes > _BYTES:
            self._begin(started)
        small = {key: entry for key, entry in entries.items() if len(entry[2]) <= SMALL_MAX}
        self.entries.update(small)
        self.plain.update({key: entry[2] for key, entry in small.items() if entry[1] == 1})
        self._bytes += _ENTRY_BYTES * len(small) + sum([len(entry[2]) for entry in small.values()])

    def _begin(self, started: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.plain: dict[str, bytes] = {}  # the payloads of plain bytes: an object less to touch for each
        self.at, self._bytes = started, 0
