"""What a test has left behind of ours: threads, child processes, open files and sockets."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from pathlib import Path

_GRACE_SECONDS = 5.0  # idle threads end by themselves in a tenth of a second
_COLLECT_SECONDS = 0.25  # it takes longer than what mostly is waited for: a thread that is about to end
_SERVERS = ("multiprocessing.forkserver", "resource_tracker")  # of Python, for the whole run
_SHARED = ("eau2-query", "eau2-memory")  # belong to the process; they are idle, or end by themselves
_OF_AN_ENGINE = ("LokyProcess", "/eau2-spill-")


def threads() -> set[threading.Thread]:
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("eau2-")]
    return {thread for thread in ours if not thread.name.startswith(_SHARED)}


def files(folder: str) -> set[str]:
    """Open files under `folder` or of a store anywhere, and sockets, of this process."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{number}")
            if name.startswith((f"{folder}/", "socket:[")) or "/eau2-" in name:
                found.add(f"{number} {name}")
    return found


def children() -> set[str]:
    found: set[str] = set()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is none: most tests need not ask thread by thread
        return found
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            for process in Path(f"/proc/self/task/{thread}/children").read_text().split():
                command = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
                if command and not any(word in command for word in _SERVERS):  # a zombie has none
                    found.add(f"{process} {command}")
    return found


class Left:
    """Compares with what there was when it was made."""

    def __init__(self, folder: str, *, shares_engine: bool, uses_ray: bool = False) -> None:
        self._folder = folder
        self._shares_engine = shares_engine  # it outlives the test: so do its workers and where it spills to
        self._uses_ray = uses_ray  # which connects to others when it likes, and stays connected
        self._threads, self._files, self._children = threads(), files(folder), children()

    def wait(self) -> list[str]:
        """Return what is still there after a short time."""
        deadline = time.monotonic() + _GRACE_SECONDS
        pause = 0.001
        collected = 0.0
        while (found := self._found()) and time.monotonic() < deadline:
            if time.monotonic() - collected > _COLLECT_SECONDS:
                gc.collect()  # stores that nobody closed are closed when nobody holds them
                collected = time.monotonic()
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return found

    def _found(self) -> list[str]:
        left = [f"thread {thread.name}" for thread in threads() - self._threads]
        left += [f"file {name}" for name in files(self._folder) - self._files]
        left += [f"child {process}" for process in children() - self._children]
        if self._uses_ray:
            left = [what for what in left if " socket:[" not in what]
        return [what for what in left if not (self._shares_engine and any(name in what for name in _OF_AN_ENGINE))]
