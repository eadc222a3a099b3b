"""Ctrl-C and SIGTERM end a command within a second, also one that is deep in the query engine."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eau2.ingest.whole import unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

GRACE_SECONDS = 0.7  # for files to be removed and the store to be closed
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = frozenset(128 + number for number in _SIGNALS)  # exit codes


@contextmanager
def interruptible() -> Iterator[None]:
    """Within this, SIGINT raises KeyboardInterrupt and SIGTERM SystemExit(143), as soon as Python runs; and when the
    process has not ended GRACE_SECONDS later, because native code holds the main thread, it is ended.

    Nothing is lost so: the store survives kill -9. Outside the main thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    term = signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_end_late, args=(ours,), name="eau2-interrupts", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, term)
        theirs.close()  # which ends the thread


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_late(ours: socket.socket) -> None:
    with ours:
        while received := ours.recv(1):
            if received[0] not in _SIGNALS:
                continue
            ours.settimeout(GRACE_SECONDS)
            try:
                while ours.recv(1):  # nothing comes when the command ends in time, but the end
                    pass
            except TimeoutError:
                for path in tuple(unfinished):
                    path.unlink(missing_ok=True)
                os._exit(128 + received[0])
            return
