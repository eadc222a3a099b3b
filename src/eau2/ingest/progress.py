"""A bar on a terminal for what takes more than a second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BEFORE = 1.0
_SECONDS_BETWEEN = 0.1


class Bar:
    """Shows how many of `total` bytes are done, on standard error.

    shown: False never, True from the start, None only when standard error is a terminal and SECONDS_BEFORE are over.
    """

    def __init__(self, title: str, total: int, shown: bool | None) -> None:
        self._title, self._total = title, total
        self._never = shown is False or (shown is None and not sys.stderr.isatty())
        self._next = time.monotonic() + (0.0 if shown else SECONDS_BEFORE)
        self._bar: Progress | None = None

    def update(self, done: int) -> None:
        if self._never or (now := time.monotonic()) < self._next:
            return
        self._next = now + _SECONDS_BETWEEN
        if self._bar is None:
            self._start()
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], completed=done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self) -> None:
        # Imported only when there is a bar: it takes longer than a small load.
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=Console(stderr=True), transient=sys.stderr.isatty())
        self._bar.add_task(self._title, total=self._total or None)
        self._bar.start()
