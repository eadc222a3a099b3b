"""Where a server listens, and whom it trusts by address alone."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOOPBACK = ("127.0.0.0/8", "::1/128")


class Networks:
    """Some networks: `"127.0.0.1" in Networks(LOOPBACK)`."""

    def __init__(self, names: Iterable[str]) -> None:
        try:
            self._networks = [ipaddress.ip_network(name) for name in names]
        except ValueError as error:
            raise InvalidOption(f"not a network: {error}", hint="for example 10.0.0.0/8") from None
        self._known: dict[str, bool] = {}  # the last addresses that were asked for

    def __contains__(self, address: str) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= 1000:
                self._known.clear()
            known = self._known[address] = self._has(address)
        return known

    def _has(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)


def client_text(address: Sequence[object] | None) -> str:
    """Return how a log says from where a client came; "" where that is not known.

    >>> client_text(("127.0.0.1", 52341)), client_text(("::1", 52341, 0, 0)), client_text(None)
    ('127.0.0.1:52341', '[::1]:52341', '')
    """
    if not address:
        return ""
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether all that listens at `host` can be reached from this machine only. InvalidOption for an unknown host."""
    loopback = Networks(LOOPBACK)
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise InvalidOption(f"no address is known for {host!r}: {error}") from None
    return all(str(each[4][0]) in loopback for each in found)
