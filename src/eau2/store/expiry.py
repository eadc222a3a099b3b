"""Values with an end: bytes under Kind.EXPIRING, which begin with the moment from which they are not to be seen.

The end is part of the value: it has its version, its copies and its flush, and who replaces the value replaces it.
Nodes do not look at it; who reads them says what it is worth, by a clock of their own. Times are milliseconds since
1970.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from eau2.store.nodes import Kind

if TYPE_CHECKING:
    from eau2.store.nodes import Entry

UNTIL = struct.Struct(">q")
_EXPIRING = int(Kind.EXPIRING)


def expiring(value: bytes, until: int) -> bytes:
    """Return the payload for `value` that is there until the moment `until`."""
    return UNTIL.pack(until) + value


def until_of(entry: Entry) -> int | None:
    """Return the end of what `entry` holds; None where it has none."""
    return int(UNTIL.unpack_from(entry.payload)[0]) if entry.kind == _EXPIRING else None


def bytes_of(entry: Entry) -> bytes:
    """Return the bytes that `entry` holds, which is no frame; their end may have come."""
    return entry.payload[UNTIL.size :] if entry.kind == _EXPIRING else entry.payload
