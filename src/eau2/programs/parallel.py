"""One function over many pieces, in threads, with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from eau2.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")


def thread_count(threads: int | None) -> int:
    """Return `threads`, or the cores this process may use for None. InvalidOption unless it is 1 or more."""
    if threads is None:
        return len(os.sched_getaffinity(0))
    if threads < 1:
        raise InvalidOption(f"threads is 1 or more, not {threads}")
    return threads


def in_order(function: Callable[[Piece], Answer], pieces: Iterable[Piece], threads: int) -> Iterator[Answer]:
    """Yield `function(piece)` in the order of the pieces. It must release the GIL for this to be of use.

    When a piece is asked for, at most `threads` earlier ones are unfinished or not yielded. What the function or the
    pieces raise is raised here, after what runs has ended.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="eau2-program") as pool:
        pending: deque[Future[Answer]] = deque()
        for piece in pieces:
            pending.append(pool.submit(function, piece))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
