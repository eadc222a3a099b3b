"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO

unfinished: set[Path] = set()  # of this process: who ends it in the midst of native code removes them


class WholeFile:
    """`file` is written beside `path` and takes its place with `publish`, or is removed by `discard`.

    As a context manager it gives `file`, and publishes unless the block raises. What a link points to is replaced, not
    the link. A device or a pipe cannot be replaced: it is written as it goes. OSError as the system has it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = Path(path)
        if given.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(given))
        self._target = given.resolve()
        self._part: Path | None = None
        if _is_special(given):  # not resolved: /dev/stdout of a pipe resolves to a name that nobody can open
            self.file: BinaryIO = given.open("wb")
            return
        part = self._target.with_name(f".{self._target.name[:100]}.{os.urandom(4).hex()}.part")
        self.file = part.open("xb")
        self._part = part
        unfinished.add(part)

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()
            return
        try:
            self.publish()
        except BaseException:
            self.discard()
            raise

    def publish(self) -> None:
        """Put the file in its place. When that fails it is still there to be discarded."""
        self.file.close()
        if self._part is not None:
            self._part.replace(self._target)
            self._forget()

    def discard(self) -> None:
        """Remove the file, unless it was published. May be called again."""
        try:
            self.file.close()
        except OSError:  # what was buffered finds no room: it is not wanted any more
            pass
        finally:
            if self._part is not None:
                self._part.unlink(missing_ok=True)
                self._forget()

    def _forget(self) -> None:
        if self._part is not None:
            unfinished.discard(self._part)
            self._part = None


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
