"""The process of an instance of a program on a node, which `hosting.py` starts."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

from eau2.programs.far import End, FarMeeting, Finished, Printed, Replied
from eau2.programs.instance import Guard, run_instance
from eau2.programs.printing import Lines
from eau2.programs.tracing import last_line
from eau2.query.crossing import pack, pack_error, unpack
from eau2.query.modules import install
from eau2.remote.driver import RemoteNodes
from eau2.remote.hosting import Answered, Called
from eau2.remote.transport import Arriving
from eau2.remote.workers import tables_of
from eau2.store.store import Store

if TYPE_CHECKING:
    from typing import TextIO

    from eau2.programs.far import ProgramOrder
    from eau2.remote.transport import Answer, Arguments


class Channel:
    """To the node's process. Thread-safe. A `Transport`, whose calls the node's makes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()  # one message at a time
        self._numbers = itertools.count()
        self._called: dict[int, Future[Answer]] = {}  # changed by single operations only

    def say(self, thing: Any) -> None:
        data = pickle.dumps(thing)
        with self._sending:
            self._connection.send_bytes(data)

    def hear(self) -> Any:
        """Return what comes next; EOFError, OSError when the node has ended."""
        return pickle.loads(self._connection.recv_bytes())

    def call(self, name: str, method: str, arguments: Arguments, timeout_seconds: float) -> Arriving:
        number, future = next(self._numbers), Future[Any]()
        self._called[number] = future
        self.say(Called(number, name, method, arguments, timeout_seconds))
        return Arriving(name, future, timeout_seconds)

    def answered(self, answered: Answered) -> None:
        future = self._called.pop(answered.number)
        if future.set_running_or_notify_cancel():
            future.set_result(answered.answer)


class PrintedLines(io.TextIOBase):
    """Standard output of the process: whole lines, told to the caller."""

    def __init__(self, channel: Channel) -> None:
        self._lock = threading.Lock()
        self._lines = Lines(lambda line: channel.say(Printed(line)))

    def write(self, text: str) -> int:
        with self._lock:
            return self._lines.write(text)

    def end(self) -> None:
        with self._lock:
            self._lines.end()


def listen(channel: Channel, meeting: FarMeeting, guard: Guard) -> None:
    """Take in what comes, until the node ends: and then end, whatever the program does."""
    while True:
        try:
            heard = channel.hear()
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)  # with what the program has started
            return
        if isinstance(heard, Answered):
            channel.answered(heard)
        elif isinstance(heard, Replied):
            meeting.replied(heard)
        elif isinstance(heard, End):
            meeting.end()
            guard.interrupt()


def finish(order: ProgramOrder, channel: Channel, guard: Guard) -> Finished:
    """Run the program, over a store of its own; return what it came to."""
    try:
        nodes = RemoteNodes(channel)
        with Store(nodes, tables_of(nodes), name="of this cluster") as store:
            return run_over(store, order, guard)
    except BaseException as error:  # the cluster's, which is raised at the caller too
        return Finished(b"", pack_error(error))


def run_over(store: Store, order: ProgramOrder, guard: Guard) -> Finished:
    file = ""
    try:
        program, values = unpack(order.program)
        file = program.run.__code__.co_filename
        return Finished(pack(run_instance(program, values, order.node, order.names, store, guard)))
    except BaseException as error:  # packed while the store is open: KeyMissing looks for keys that are near
        return Finished(b"", pack_error(error), last_line(file, error))


def main(socket: int) -> None:
    """Be that process. `socket`: the number of an open file, the other end of which the node's process has."""
    sys.argv[1:] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's, who says so
    channel = Channel(Connection(socket))
    order: ProgramOrder = channel.hear()
    install(order.modules)
    with contextlib.suppress(OSError):
        os.chdir(order.folder)
    printed = PrintedLines(channel)
    sys.stdout = cast("TextIO", printed)
    meeting = FarMeeting(channel.say)
    guard = Guard(meeting)
    threading.Thread(target=listen, args=(channel, meeting, guard), name="eau2-node", daemon=True).start()
    finished = finish(order, channel, guard)
    printed.end()
    channel.say(finished)
