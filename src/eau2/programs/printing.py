"""What the instances of a program print: whole lines, which say on which node."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

LINE_CHARACTERS_MAX = 1 << 20  # a line that is longer is cut, rather than held


class Output:
    """Stands for sys.stdout while programs run: text goes on to `outer`, but that of a program's thread to its `Lines`.

    Everything else that a stream has is that of `outer`.
    """

    def __init__(self, outer: TextIO) -> None:
        self.outer = outer
        self.users = 0  # guarded by _installing
        self._lock = threading.Lock()  # one line at a time
        self._lines: dict[int, Lines] = {}  # by thread; each thread changes its own entry only

    def write(self, text: str) -> int:
        lines = self._lines.get(threading.get_ident())
        if lines is not None:
            return lines.write(text)
        return self.pass_on(text)

    def pass_on(self, text: str) -> int:
        """Write `text` to the outer stream, in one piece."""
        with self._lock:
            return self.outer.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.outer, name)

    @contextmanager
    def shown_by(self, show: Callable[[str], object]) -> Iterator[None]:
        """Within this, `show` is called with each line that this thread prints, without its end."""
        thread = threading.get_ident()
        lines = self._lines[thread] = Lines(show)
        try:
            yield
        finally:
            del self._lines[thread]
            lines.end()


class Lines:
    """Text cut into lines. For one thread."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._rest = ""

    def write(self, text: str) -> int:
        *whole, rest = text.split("\n")
        for line in whole:
            self._rest, line = "", self._rest + line
            self._show(line)
        self._rest += rest
        if len(self._rest) > LINE_CHARACTERS_MAX:
            self.end()
        return len(text)

    def end(self) -> None:
        """Show what has no end yet as a line."""
        if self._rest:
            self._rest, line = "", self._rest
            self._show(line)


_installing = threading.Lock()


@contextmanager
def output() -> Iterator[Output]:
    """Put an Output in place of sys.stdout, for all runs of this process that are under way."""
    with _installing:
        if isinstance(sys.stdout, Output):
            found = sys.stdout
        else:
            found = Output(sys.stdout)
            sys.stdout = cast("TextIO", found)
        found.users += 1
    try:
        yield found
    finally:
        with _installing:
            found.users -= 1
            # Somebody who has replaced it meanwhile will put it back: it then passes everything on.
            if not found.users and cast("object", sys.stdout) is found:
                sys.stdout = found.outer
