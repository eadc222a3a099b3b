"""Served stores for tests: the server is in this process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import eau2
from eau2.doors.server import Doors, Server

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

FLIGHT_ONLY = Doors(crud_port=None, redis_port=None, udp_port=None, flight_port=0)


@contextlib.contextmanager
def serving(path: str | os.PathLike[str], **options: object) -> Iterator[str]:
    """Serve the store at `path`; yield the address to open. `options` are those of the server."""
    with eau2.open(path) as store, Server(store, FLIGHT_ONLY, **options) as server:
        yield address_of(server)


def address_of(server: Server) -> str:
    """Return what `eau2.open` takes to be a client of `server`."""
    host, port = server.addresses["flight"]
    return f"eau2://{host}:{port}"
