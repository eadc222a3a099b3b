"""On which addresses processes listen, as the system knows it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import struct
from pathlib import Path

_LISTENS = "0A"


def listened(pids: list[int]) -> set[tuple[str, int]]:
    """Return the (address, port) on which any of `pids` listens."""
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENS and rest[5] in inodes:
                address, port = local.split(":")
                found.add((str(_address(bytes.fromhex(address))), int(port, 16)))
    return found


def _address(packed: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    words = struct.unpack(f"={len(packed) // 4}I", packed)  # as the machine has them
    address = ipaddress.ip_address(struct.pack(f"!{len(words)}I", *words))
    return getattr(address, "ipv4_mapped", None) or address


def _sockets(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                name = os.readlink(f"/proc/{pid}/fd/{number}")
                if name.startswith("socket:["):
                    found.append(name[8:-1])
    return found
