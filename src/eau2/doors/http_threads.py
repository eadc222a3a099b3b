"""The threads of the HTTP door."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor


class Threads:
    """A bounded number of threads, of which none is waited for in the end for longer than a moment."""

    def __init__(self, most: int, name: str) -> None:
        self._begun: list[threading.Thread] = []
        self.pool = ThreadPoolExecutor(
            most, thread_name_prefix=name, initializer=lambda: self._begun.append(threading.current_thread())
        )

    def end(self, deadline: float) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for thread in self._begun:
            thread.join(max(0.0, deadline - time.monotonic()))
