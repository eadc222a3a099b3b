"""From "eau2://HOST:PORT" to a connection."""

from __future__ import annotations

import os
import ssl

from eau2.errors import InvalidOption
from eau2.served.address import address_of
from eau2.served.connection import Connection

TOKEN, ROOTS = "EAU2_TOKEN", "EAU2_TLS_CA"  # of the environment: where nothing is passed


def connect(text: str, token: str | None = None, tls: bool | str | os.PathLike[str] | None = None) -> Connection:
    """Return a connection with the server at `text`, which is not asked anything yet.

    tls: True, or the path of the certificates to trust. InvalidOption for what is no address, token or file.
    """
    address = address_of(text)
    token = os.environ.get(TOKEN, "") if token is None else token
    if not (token.isascii() and token.isprintable()):
        raise InvalidOption("a token is printable ASCII text", hint="pass what the server has in its --token-file")
    return Connection(address, token, roots=_roots(os.environ.get(ROOTS) or False if tls is None else tls))


def _roots(tls: bool | str | os.PathLike[str]) -> bytes | None:
    """Return the certificates to trust, b"" for those that gRPC knows, None where there is no TLS."""
    if tls is False:
        return None
    path = (ssl.get_default_verify_paths().cafile or "") if isinstance(tls, bool) else tls
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, TypeError, ValueError) as error:
        raise InvalidOption(f"the certificates at {path!r} cannot be read: {error}") from None
