"""What ends a command when the process that ran it was killed, and so ends it no more: a small process beside each.

    python -I -S guard.py PID PIDFD SECONDS DEADLINE

It holds one end of a pipe, as standard input, whose other end the node has: that is closed when the node ends, however
it does. The command then has SECONDS left, as one that nobody waits for, but not beyond DEADLINE (monotonic; `inf` for
none). Run as a file by itself, so that it imports nothing but this: 10 ms of a processor, and 8 MB while it waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

_TERM_SECONDS = 1.0  # from SIGTERM to SIGKILL
_WAIT_SECONDS = 3600.0  # a bound on one wait; the loop around it waits on
_STANDARD_INPUT = 0


def guard(pid: int, pidfd: int, orphan_seconds: float, deadline: float) -> None:
    """Wait until the command `pid` has ended; end it and its group once it has been without its node for that long."""
    both, command = select.poll(), select.poll()
    both.register(pidfd, select.POLLIN)
    both.register(_STANDARD_INPUT, select.POLLIN)
    command.register(pidfd, select.POLLIN)
    while not (ready := both.poll(_WAIT_SECONDS * 1e3)):
        pass
    if any(number == pidfd for number, _ in ready):
        return
    end = min(deadline, time.monotonic() + orphan_seconds)
    if _has_ended(command, end):
        return  # what it has left in the background lives on
    _signal(pid, signal.SIGTERM)
    _has_ended(command, time.monotonic() + _TERM_SECONDS)
    # When it has ended meanwhile its id is free, but this soon nobody else's; others of its group have it still.
    _signal(pid, signal.SIGKILL)


def _has_ended(command: select.poll, deadline: float) -> bool:
    while (left := deadline - time.monotonic()) > 0:
        if command.poll(min(left, _WAIT_SECONDS) * 1e3):
            return True
    return bool(command.poll(0))


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
