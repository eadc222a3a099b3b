"""How the address of a served store is written."""

from __future__ import annotations

import re

from eau2.errors import InvalidOption

SCHEME = "eau2://"
PORT = 7400
_FORM = re.compile(r"eau2://(?P<host>[^/:\[\]@?#\s]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?/?")


def address_of(text: str) -> str:
    """Return HOST:PORT of "eau2://HOST:PORT". InvalidOption.

    >>> address_of("eau2://localhost")
    'localhost:7400'
    """
    found = _FORM.fullmatch(text)
    if found is None or int(found["port"] or PORT) > 65535:
        raise InvalidOption(f"{text!r} is no address of a served store", hint="for example eau2://127.0.0.1:7400")
    return f"{found['host']}:{found['port'] or PORT}"
