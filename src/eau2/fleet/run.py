"""What is to be done on every node of a cluster, once on each: a command, a script, or files to write. And what nodes
say of it. All of it can be pickled, and travels from node to node as it is.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import shlex
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from eau2.errors import InvalidOption, ValueTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

ARGUMENTS_BYTES_MAX = 128 << 10  # Linux takes no longer single argument
SCRIPT_BYTES_MAX = 1 << 20
FILES_MAX = 200  # each is open, on every node, until all below it have it
FILES_BYTES_MAX = 64 << 30
PART_BYTES = 4 << 20  # of a file, in one message
DEADLINE_SECONDS_MAX = 7 * 86400.0
NODE = "{node}"  # in a directory that files are pushed to: the name of the node

State = Literal["ended", "deadline", "cancelled", "failed", "lost", "refused", "unreached", "skipped"]
Stream = Literal["out", "err"]


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments; no shell reads them. InvalidOption, ValueTooLarge."""

    arguments: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_arguments(self.arguments)
        if not self.arguments or not self.arguments[0]:
            raise InvalidOption("there is no command to run", hint="eau2 exec -- COMMAND...")

    @property
    def text(self) -> str:
        return shlex.join(self.arguments)

    @property
    def sha256(self) -> str:
        return _hash(*(argument.encode("utf-8", "surrogateescape") for argument in self.arguments))


@dataclass(frozen=True, slots=True)
class Script:
    """A file to run, whose first line says by what (`#!`; otherwise /bin/sh). InvalidOption, ValueTooLarge."""

    name: str
    content: bytes
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_arguments(self.arguments)
        if len(self.content) > SCRIPT_BYTES_MAX:
            raise ValueTooLarge(f"{self.name} has {len(self.content)} bytes, and a script at most {SCRIPT_BYTES_MAX}")

    @property
    def text(self) -> str:
        return shlex.join((self.name, *self.arguments))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def interpreter(self) -> tuple[str, ...]:
        """Return what is to run the file: as the kernel reads its first line, which could not run a file that another
        thread of the process has just written.

        >>> Script("a", b"#!/usr/bin/env python3 -u\\n").interpreter(), Script("b", b"date").interpreter()
        (('/usr/bin/env', 'python3 -u'), ('/bin/sh',))
        """
        first = self.content.partition(b"\n")[0]
        words = first[2:].decode("utf-8", "surrogateescape").split(None, 1) if first.startswith(b"#!") else []
        return tuple(word.strip() for word in words) or ("/bin/sh",)


class File(NamedTuple):
    """A file to write: a name without a folder, and what it is to be."""

    name: str
    size: int
    mode: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Push:
    """Files to write into `directory`, which is absolute; `{node}` in it is the node's name. They travel in parts.

    InvalidOption, ValueTooLarge.
    """

    files: tuple[File, ...]
    directory: str

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        if not names or len(names) > FILES_MAX:
            raise InvalidOption(f"at least one file is pushed, and at most {FILES_MAX}, not {len(names)}")
        for name in names:
            if name in ("", "..") or PurePosixPath(name).name != name or "\0" in name:
                raise InvalidOption(f"{name!r} is no name of a file")
            if names.count(name) > 1:
                raise InvalidOption(f"two files are called {name!r}", hint="push them one after the other")
        if not PurePosixPath(self.directory).is_absolute() or "\0" in self.directory:
            raise InvalidOption(f"--to is an absolute path, as {self.directory!r} is another on each node")
        if sum(file.size for file in self.files) > FILES_BYTES_MAX:
            raise ValueTooLarge(f"more than {FILES_BYTES_MAX} bytes", hint="push the files one after the other")

    @property
    def text(self) -> str:
        return f"push {shlex.join(file.name for file in self.files)} --to {shlex.quote(self.directory)}"

    @property
    def sha256(self) -> str:
        return _hash(*(f"{file.name} {file.mode:o} {file.sha256}".encode() for file in self.files))

    @property
    def parts(self) -> int:
        """How many parts all the files have."""
        return sum(_parts(file.size) for file in self.files)

    def part(self, number: int) -> tuple[int, int, int]:
        """Return of part `number`, from 0, the index of its file, where in that it starts, and its size in bytes."""
        for index, until in enumerate(accumulate(_parts(file.size) for file in self.files)):
            if number < until:
                size = self.files[index].size
                start = (number - until + _parts(size)) * PART_BYTES
                return index, start, min(PART_BYTES, size - start)
        raise IndexError(number)


def _parts(size: int) -> int:
    return -(-size // PART_BYTES)


Work = Command | Script | Push


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what, by whom, and for how long. Every node does it once at most, whatever is repeated: by its `id`,
    which begins with when it was made, so that ids are in order of time.

    `nodes`: how many it is for. The caller is who it says it is: nobody verifies that.
    """

    id: str
    time: float  # Unix time at the caller
    user: str
    host: str
    work: Work
    nodes: int
    deadline_seconds: float | None = None

    def __post_init__(self) -> None:
        """InvalidOption."""
        seconds = self.deadline_seconds
        if seconds is not None and not (math.isfinite(seconds) and 0 < seconds <= DEADLINE_SECONDS_MAX):
            raise InvalidOption(f"a deadline is over 0 and at most {DEADLINE_SECONDS_MAX:g} seconds, not {seconds:g}")


def new_id(time: float) -> str:
    """Return the id of a run that is made at `time` (Unix time).

    >>> new_id(1.5)[:14], len(new_id(1.5))
    ('0000000001500-', 22)
    """
    return f"{int(time * 1000):013d}-{secrets.token_hex(4)}"


# -- what travels ------------------------------------------------------------------------------------------------------


class Order(NamedTuple):
    """To a node: do `run`, and have those below do it. `cancelled`: who has not begun is not to begin."""

    run: Run
    below: tuple[str, ...]
    cancelled: bool = False


class Part(NamedTuple):
    """To a node: a part of a file that is pushed."""

    number: int
    data: bytes


class Cancel(NamedTuple):
    """To a node: end it, there and below."""


class Output(NamedTuple):
    """From a node: what its command has written. `start`: how many bytes it had written to that stream before."""

    node: str
    stream: Stream
    start: int
    data: bytes


class Ended(NamedTuple):
    """From a node, or said of it: what came of the run there. Each node has one such outcome.

    ended      it ended by itself, with `code` (of a signal -N); files were written
    deadline   it was ended at the deadline
    cancelled  it was ended, or never begun, as the caller wished
    failed     it could not be begun, or files not be written: `why`
    lost       the node has begun it, or may have, and nobody knows what came of it
    refused    the node does not run commands
    unreached  the node was known to be dead
    skipped    a rolling run stopped before it
    """

    node: str
    state: State
    code: int | None = None
    seconds: float = 0.0
    why: str = ""

    @property
    def is_good(self) -> bool:
        return self.state == "ended" and self.code == 0


class Withdrawn(NamedTuple):
    """From a node: it passes nothing on to those below, as it has not got it itself."""


class Finished(NamedTuple):
    """From a node: all has been said, also of those below."""


Said = Output | Ended | Withdrawn | Finished


def _require_arguments(arguments: Sequence[str]) -> None:
    if any("\0" in argument for argument in arguments):
        raise InvalidOption("an argument of a command has no NUL")
    size = sum(len(argument.encode("utf-8", "surrogateescape")) for argument in arguments)
    if size > ARGUMENTS_BYTES_MAX:
        raise ValueTooLarge(
            f"the arguments have {size} bytes, and at most {ARGUMENTS_BYTES_MAX}", hint="push a file, or use --script"
        )


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
