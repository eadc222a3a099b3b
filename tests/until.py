"""Waiting for what comes by itself, on a machine of any speed."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING, Any, TypeVar

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


def rests() -> bool:
    """Whether this process computes nothing now. The engine ends a query some time after nobody waits for it."""
    busy = time.process_time()
    time.sleep(0.2)
    return time.process_time() - busy < 0.05


def run_patiently(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `command`, again when it takes a head of Ray that is slow, as the machine is busy, for one that is frozen."""
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        if done.returncode == 0 or not re.search("does not answer|no head of Ray answers", done.stderr):
            break
    return done
