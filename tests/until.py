"""Waiting for what comes by itself, on a machine of any speed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")

SECONDS_MAX = 60.0  # no machine is so slow; what ends by this would else go on for longer, or for ever


def until(condition: Callable[[], Found]) -> Found:
    """Call `condition` until what it returns is true; return that. Fails after SECONDS_MAX."""
    deadline = time.monotonic() + SECONDS_MAX
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:g} seconds: {found!r}"
        time.sleep(0.01)
    return found
