"""What a server writes to standard error: one JSON object a line."""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_logger = logging.getLogger("eau2.doors")
_OTHERS = ("asyncio",)  # who log in words of their own when something of the server's is wrong


def log(event: str, **facts: object) -> None:
    """Log `event` with `facts`, one JSON object, as level INFO of the logger `eau2.doors`."""
    if _logger.isEnabledFor(logging.INFO):
        _logger.info(_line(time.time(), event, facts))


@contextmanager
def logged_to_standard_error() -> Iterator[None]:
    """Within this, standard error gets what the server logs, and what asyncio has to say, as lines of JSON."""
    shown = logging.StreamHandler()
    shown.setFormatter(_Json())
    loggers = [_logger, *map(logging.getLogger, _OTHERS)]
    level = _logger.level
    for logger in loggers:
        logger.addHandler(shown)
    _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logger.setLevel(level)
        for logger in loggers:
            logger.removeHandler(shown)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if record.name == _logger.name:
            return record.getMessage()
        event = "failed" if record.levelno >= logging.ERROR else "warned"
        error = {} if record.exc_info is None else {"trace": self.formatException(record.exc_info)}
        return _line(record.created, event, {"by": record.name, "error": record.getMessage(), **error})


def _line(now: float, event: str, facts: dict[str, object]) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    line = json.dumps({"time": stamp, "event": event, **facts}, ensure_ascii=False, default=str)
    if line.isprintable():
        return line
    # A key may have what ends a line elsewhere, or steers a terminal, and JSON lets pass: U+0085, U+009B, U+2028.
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
