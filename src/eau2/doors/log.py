"""What a server writes to standard error: one JSON object a line."""

from __future__ import annotations

import json
import logging
import time

_logger = logging.getLogger("eau2.doors")


def log(event: str, **facts: object) -> None:
    """Log `event` with `facts`, one JSON object, as level INFO of the logger `eau2.doors`."""
    if _logger.isEnabledFor(logging.INFO):
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        _logger.info(json.dumps({"time": stamp, "event": event, **facts}, ensure_ascii=False, default=str))
