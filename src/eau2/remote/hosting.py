"""Instances of programs on a node: a process each, which this one starts, relays for, and ends.

The process speaks with this one alone, over a pair of sockets: what it tells its caller goes into its job, and the
calls of its store go out by this node's transport. So an instance needs no connection of its own, and it ends when the
node does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any, NamedTuple

from eau2.programs.far import End, ProcessEnded
from eau2.remote.loops import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.programs.far import ProgramOrder
    from eau2.remote.transport import Answer, Arguments, Transport

ENDING_SECONDS = 2.0  # for a program to end by itself when the run has failed
_STOP_SECONDS = 1.0
_MAIN = "import sys; sys.path[:] = sys.argv[2:]; from eau2.remote.instance import main; main(int(sys.argv[1]))"


class Called(NamedTuple):
    """From an instance: a call of its transport."""

    number: int
    name: str
    method: str
    arguments: Arguments
    timeout_seconds: float


class Answered(NamedTuple):
    """To an instance: what a call came to."""

    number: int
    answer: Answer


class Hosted:
    """One instance. See `work.Working`."""

    capacity = 1

    def __init__(self, transport: Transport, order: ProgramOrder, say: Callable[[Any], None]) -> None:
        self._transport, self._say = transport, say
        self._sending = threading.Lock()  # one message at a time
        self._ending = threading.Timer(ENDING_SECONDS, self._kill)
        self._relay = LoopThread("eau2-relay")
        self._channel, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the caller's; and what the program starts ends with it
            )
        self._sending.acquire()  # until it has the order, which it reads once it has imported all: that may take long
        self._thread = threading.Thread(target=self._listen, args=(order,), name="eau2-instance", daemon=True)
        self._thread.start()

    def take(self, thing: Any) -> None:
        if isinstance(thing, End) and not self._ending.is_alive():
            self._ending.start()
        self._send(thing)

    def end(self) -> None:
        self._kill()
        self._thread.join(_STOP_SECONDS)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _send(self, thing: Any) -> None:
        data = pickle.dumps(thing)
        with self._sending, contextlib.suppress(OSError):  # it has ended: `_listen` says so
            self._channel.send_bytes(data)

    def _listen(self, order: ProgramOrder) -> None:
        """Give the instance its order, and take in what it says until it ends; then clear up, and say that."""
        with contextlib.suppress(EOFError, OSError):
            try:
                self._channel.send_bytes(pickle.dumps(order))
            finally:
                self._sending.release()
            while True:
                said = pickle.loads(self._channel.recv_bytes())
                if isinstance(said, Called):
                    self._relay.submit(self._answer(said))
                else:
                    self._say(said)
        self._kill()  # it may have closed its end, and live on
        code = self._process.wait(_STOP_SECONDS * 10)
        self._ending.cancel()
        self._relay.stop(_STOP_SECONDS)
        with self._sending:
            self._channel.close()
        self._say(ProcessEnded(code))

    async def _answer(self, called: Called) -> None:
        pending = self._transport.call(called.name, called.method, called.arguments, called.timeout_seconds)
        try:
            answer: Answer = (await pending, None)
        except Exception as error:
            answer = None, error
        self._send(Answered(called.number, answer))
