"""Where in a program's file an exception came from."""

from __future__ import annotations

import traceback


def last_line(file: str, error: BaseException) -> int:
    """Return the line of `file` that `error` came through last, or 0 when it came through none."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return lines[-1] if lines else 0
