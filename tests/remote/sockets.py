"""A `Transport` over sockets in a folder, for nodes that are threads of this process or processes of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import socket
import struct
import threading
from concurrent.futures import CancelledError, Future

from eau2.cluster.peer import Unreachable
from eau2.remote.transport import Arriving

_HEAD = struct.Struct("<QQ")  # the number of the call, and how many bytes follow


class Stream:
    """Messages with numbers over a socket. A thread writes, as who sends must not wait, and one reads."""

    def __init__(self, name, connect, received, ended):
        self._name, self._received, self._ended = name, received, ended
        self._socket = None
        self._queue = queue.SimpleQueue()
        self._over = False
        threading.Thread(target=self._write, args=[connect], name=f"eau2-{name}", daemon=True).start()

    def send(self, number, message):
        self._queue.put((number, message))

    def _write(self, connect):
        with contextlib.suppress(OSError):
            self._socket = connect()
            threading.Thread(target=self._read, name=f"eau2-{self._name}", daemon=True).start()
            while (item := self._queue.get()) is not None and not self._over:
                self._socket.sendall(_HEAD.pack(item[0], len(item[1])))
                self._socket.sendall(item[1])
        self.end()

    def _read(self):
        with contextlib.suppress(OSError, EOFError), self._socket.makefile("rb") as file:
            while head := file.read(_HEAD.size):
                number, size = _HEAD.unpack(head)
                self._received(self, number, file.read(size))
        self.end()

    def end(self):
        self._over = True
        self._queue.put(None)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        self._ended()


class Line:
    """Calls to one door, and their answers."""

    def __init__(self, path, name):
        self._path, self._name = path, name
        self._door = _door(path)
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards the two below
        self._waiting = {}
        self._dead = False
        self._stream = Stream(f"line-{name}", self._connect, self._answered, self._ended)

    def _connect(self):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection

    def send(self, message, future):
        """Return False when another door has the name now: of one who was started in place of a frozen process."""
        with self._lock:
            if self._dead or _door(self._path) != self._door:
                return False
            number = next(self._numbers)
            self._waiting[number] = future
        self._stream.send(number, message)
        return True

    def _answered(self, _, number, data):
        with self._lock:
            future = self._waiting.pop(number, None)
        if future is not None:  # else this end is closed
            future.set_result(pickle.loads(data))

    def _ended(self):
        with self._lock:
            self._dead = True
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_result((None, Unreachable(self._name)))

    def end(self):
        self._stream.end()


def _door(path):
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


class SocketTransport:
    """Reaches whoever has a `Door` in `folder`."""

    def __init__(self, folder):
        self._folder = str(folder)
        self._lock = threading.Lock()  # guards what is below
        self._lines, self._old = {}, []
        self._closed = False

    def call(self, name, method, arguments, timeout_seconds):
        future = Future()
        future.set_running_or_notify_cancel()
        message = pickle.dumps((method, arguments), 5)
        with self._lock:
            if self._closed:
                future.set_result((None, Unreachable(name)))
            elif name not in self._lines or not self._lines[name].send(message, future):
                if name in self._lines:
                    self._old.append(self._lines[name])
                self._lines[name] = Line(os.path.join(self._folder, name), name)
                if not self._lines[name].send(message, future):
                    future.set_result((None, Unreachable(name)))
        return Arriving(name, future, timeout_seconds)

    def close(self):
        with self._lock:
            self._closed = True
            lines = [*self._lines.values(), *self._old]
        for line in lines:
            line.end()


class Door:
    """Has `ask` answer whoever connects to the socket `name` in `folder`."""

    def __init__(self, folder, name, ask):
        self._path, self._name, self._ask = os.path.join(folder, name), name, ask
        self._streams = []
        self._socket = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):  # of one who was killed
            os.unlink(self._path)
        self._socket.bind(self._path)
        self._socket.listen(100)
        threading.Thread(target=self._accept, name=f"eau2-door-{name}", daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._streams.append(self._stream(connection))

    def _stream(self, connection):
        def answer(stream, number, data):
            def send(future):
                with contextlib.suppress(CancelledError):  # it is stopped, and does not answer
                    stream.send(number, pickle.dumps(future.result(), 5))

            self._ask(*pickle.loads(data)).add_done_callback(send)

        return Stream(f"door-{self._name}", lambda: connection, answer, lambda: None)

    def close(self):
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for stream in self._streams:
            stream.end()
