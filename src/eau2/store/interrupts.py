"""Ctrl-C where locks are held: it waits until nothing is half done.

Python raises KeyboardInterrupt after any step of the main thread, also after the one that takes a lock and before the
one that notes it, or on the way into what would give it back. No order of statements is safe from that where a lock
has more to it than one call. So the handler of SIGINT is another one meanwhile.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object]


class _Keeping:
    """The handler of SIGINT within `uninterrupted`. Only the main thread calls it."""

    def __init__(self) -> None:
        self.instead_of: Handler | None = None
        self.came: list[FrameType | None] = []

    def __call__(self, _: int, frame: FrameType | None) -> None:
        self.came.append(frame)

    def begin(self, handler: Handler) -> None:
        self.came.clear()
        self.instead_of = handler
        signal.signal(signal.SIGINT, self)

    def end(self) -> None:
        handler = self.instead_of
        if handler is not None and signal.getsignal(signal.SIGINT) is self:
            signal.signal(signal.SIGINT, handler)

    def hand_on(self) -> None:
        if self.came and self.instead_of is not None:
            frame = self.came[0]
            self.came.clear()
            self.instead_of(signal.SIGINT, frame)


_keeping = _Keeping()
os.register_at_fork(after_in_child=_keeping.end)  # by another thread, which is the main one there


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within this, Ctrl-C is kept for `heed`, or for the end. 10 us in the main thread; nothing happens in others."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is _keeping or not callable(handler):
        yield
        return
    try:
        _keeping.begin(handler)
        yield
    finally:
        _keeping.end()
        _keeping.hand_on()


def heed() -> None:
    """Raise the Ctrl-C that `uninterrupted` has kept, if one came: where we wait for others, and can be cut short."""
    if _keeping.came and threading.current_thread() is threading.main_thread():
        _keeping.hand_on()
