"""A command as a process group of its own: what it writes is passed on as it comes, and it can be ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from eau2.fleet.run import State, Stream

READ_BYTES = 64 << 10
_GUARD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guard.py")
_TERM_SECONDS = 1.0  # from SIGTERM to SIGKILL
_WAIT_SECONDS = 60.0  # a bound on one wait; the loop around it waits on


class CommandProcess:
    """One command. `run` it once; `end` may come at any time, from any thread.

    It ends when its first process does; what that has left in the background is not waited for, and lives on, unless
    the command was ended from outside. When this process is killed it has `orphan_seconds` left, within its deadline.
    """

    def __init__(self, orphan_seconds: float) -> None:
        self._orphan_seconds = orphan_seconds
        self._lock = threading.Lock()  # guards what is below
        self._woken = -1  # while it runs: who is to end it writes here
        self._is_cancelled = False
        self._term_seconds = _TERM_SECONDS

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        say: Callable[[Stream, bytes], None],
        deadline_seconds: float | None = None,
    ) -> tuple[State, int | None]:
        """Run it, have `say` told what it writes; return how it ended, and its code (of a signal -N). OSError when it
        cannot be begun. `say` may wait: the command then does too, when its pipe is full."""
        deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        with self._lock:
            if self._is_cancelled:
                return "cancelled", None
            self._woken = _event()
        ended = _event()
        try:
            with self._begun(arguments, environment) as process:
                reader = threading.Thread(
                    target=_read, args=(process, ended, say), name="eau2-command-output", daemon=True
                )
                try:
                    reader.start()
                    with self._guarded(process, deadline):
                        state = self._wait(process, deadline)
                except BaseException:  # no thread, or no file, is to be had: it would be waited for
                    _signal(process, signal.SIGKILL)
                    raise
                finally:
                    os.eventfd_write(ended, 1)
                    while reader.is_alive():  # who listens may be slow
                        reader.join(_WAIT_SECONDS)
                return state, process.wait()
        finally:
            os.close(ended)
            with self._lock:
                os.close(self._woken)
                self._woken = -1

    def end(self) -> None:
        """End it, and all processes of its group: SIGTERM, and SIGKILL a second later. Not waited for. Idempotent."""
        with self._lock:
            self._is_cancelled = True
            if self._woken >= 0:
                os.eventfd_write(self._woken, 1)

    def kill(self) -> None:
        """As `end`, with SIGKILL at once: this process is about to end."""
        self._term_seconds = 0.0
        self.end()

    def _begun(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=_home(),
            start_new_session=True,  # a group of its own, and no terminal
        )

    @contextlib.contextmanager
    def _guarded(self, process: subprocess.Popen[bytes], deadline: float | None) -> Iterator[None]:
        """Have another process end it when this one is killed. OSError."""
        pidfd = os.pidfd_open(process.pid)
        try:
            guard = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", _GUARD, str(process.pid), str(pidfd), str(self._orphan_seconds)),
                    str(float("inf") if deadline is None else deadline),
                ],
                stdin=subprocess.PIPE,  # of which this process has the other end
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=(pidfd,),
                start_new_session=True,  # what ends this one is not to end it too
            )
        finally:
            os.close(pidfd)
        with guard:  # it ends with the command
            try:
                yield
            finally:
                guard.kill()

    def _wait(self, process: subprocess.Popen[bytes], deadline: float | None) -> State:
        """Wait until it ends, and end it when that is asked for, or at `deadline`. Return which it was."""
        process_ended = os.pidfd_open(process.pid)
        try:
            both = select.poll()
            both.register(process_ended, select.POLLIN)
            both.register(self._woken, select.POLLIN)
            woken = _ready(both, deadline)
            if process_ended in woken:
                return "ended"
            # It is not yet waited for, so its id, and that of its group, is nobody else's.
            _signal(process, signal.SIGTERM)
            both.unregister(self._woken)
            _ready(both, time.monotonic() + self._term_seconds)
            _signal(process, signal.SIGKILL)
            return "cancelled" if woken else "deadline"
        finally:
            os.close(process_ended)


def _event() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def _ready(poll: select.poll, deadline: float | None) -> list[int]:
    """Return what is ready; nothing at `deadline`."""
    while True:
        left = _WAIT_SECONDS if deadline is None else min(_WAIT_SECONDS, deadline - time.monotonic())
        found = [number for number, _ in poll.poll(max(0.0, left) * 1e3)]
        if found or (deadline is not None and time.monotonic() >= deadline):
            return found


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _read(process: subprocess.Popen[bytes], ended: int, say: Callable[[Stream, bytes], None]) -> None:
    """Pass on what `process` writes until it closes its ends; when it has `ended`, what is there by then."""
    assert process.stdout is not None  # they are pipes
    assert process.stderr is not None
    streams: dict[int, Stream] = {process.stdout.fileno(): "out", process.stderr.fileno(): "err"}
    poll = select.poll()
    for number in (ended, *streams):
        poll.register(number, select.POLLIN)
    while streams:
        ready = [number for number, _ in poll.poll(_WAIT_SECONDS * 1e3)]
        written = [number for number in ready if number in streams]
        if ready and not written:  # it has ended, and nothing is left
            return
        for number in written:
            if data := os.read(number, READ_BYTES):
                say(streams[number], data)
            else:
                poll.unregister(number)
                del streams[number]


def _home() -> str:
    home = os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"
