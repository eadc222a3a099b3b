"""From "eau2://HOST:PORT" to a connection."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption
from eau2.served.connection import Connection
from eau2.served.wire import PORT

if TYPE_CHECKING:
    import os

_FORM = re.compile(r"eau2://(?P<host>[^/:\[\]@?#\s]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?/?")


def connect(address: str, token: str = "", tls: bool | str | os.PathLike[str] = False) -> Connection:
    """Return a connection with the server at `address`, which is not asked anything yet.

    tls: True, or the path of the certificates to trust. InvalidOption for what is no address, token or file.
    """
    found = _FORM.fullmatch(address)
    if found is None or int(found["port"] or PORT) > 65535:
        raise InvalidOption(f"{address!r} is no address of a served store", hint="for example eau2://127.0.0.1:7400")
    if not (token.isascii() and token.isprintable()):
        raise InvalidOption("a token is printable ASCII text", hint="pass what the server has in its --token-file")
    return Connection(f"{found['host']}:{found['port'] or PORT}", token, roots=_roots(tls))


def _roots(tls: bool | str | os.PathLike[str]) -> bytes | None:
    """Return the certificates to trust, b"" for those that gRPC knows, None where there is no TLS."""
    if tls is False:
        return None
    path = (ssl.get_default_verify_paths().cafile or "") if isinstance(tls, bool) else tls
    if not path:
        return b""  # gRPC has its own
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, TypeError, ValueError) as error:
        raise InvalidOption(f"the certificates at {path!r} cannot be read: {error}") from None
