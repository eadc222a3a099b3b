"""What is done about alerts: one after the other, in a thread of its own, so that who looks for alerts never waits."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.monitor.rules import Action

WAITING_MAX = 100  # actions; more are left out
_LOOK_SECONDS = 0.02
_STOP_SECONDS = 0.5
_SAID_BYTES_MAX = 300  # of what a command says on standard error


class _Ordered(NamedTuple):
    action: Action
    document: dict[str, Any]
    done: Callable[[str], None]


class Actions:
    """Does what it is told to, in order, until `close`. Thread-safe.

    log: is given each document whose action is a line of the log.
    """

    def __init__(self, log: Callable[..., None]) -> None:
        self._log = log
        self._queue: queue.Queue[_Ordered | None] = queue.Queue(WAITING_MAX)
        self._ended = threading.Event()
        self._lock = threading.Lock()  # guards the line below
        self._connection: http.client.HTTPConnection | None = None  # of the webhook that is being called
        self._thread = threading.Thread(target=self._run, name="eau2-actions", daemon=True)
        self._thread.start()

    def begin(self, action: Action, document: dict[str, Any], done: Callable[[str], None]) -> bool:
        """Have `action` done with `document`, soon; False where too many wait, and it is left out. Never waits.

        `done` is told in few words what came of it, in another thread.
        """
        try:
            self._queue.put_nowait(_Ordered(action, document, done))
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """End what is under way, and leave out what waits. Within a second. Idempotent."""
        self._ended.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        with self._lock:
            if self._connection is not None:
                _cut(self._connection)
        self._thread.join(_STOP_SECONDS)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (ordered := self._queue.get()) is not None and not self._ended.is_set():
            try:
                outcome = self._do(ordered.action, ordered.document)
            except Exception as error:  # of whatever kind: the others are done all the same
                outcome = f"failed: {error}"
            ordered.done(outcome)

    def _do(self, action: Action, document: dict[str, Any]) -> str:
        if action.webhook:
            return self._post(action.webhook, json.dumps(document).encode(), action.timeout_seconds)
        if action.command:
            return self._execute(action.command, json.dumps(document).encode(), action.timeout_seconds)
        self._log("alert", **document)
        return "logged"

    def _post(self, url: str, body: bytes, timeout_seconds: float) -> str:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)
        # Its own timeout is for each call; the answer may come a byte at a time.
        over = threading.Timer(timeout_seconds, _cut, [connection])
        over.name, over.daemon = "eau2-webhook", True
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        with self._lock:
            self._connection = connection
        try:
            connection.connect()
            over.start()
            connection.request("POST", path, body, {"Content-Type": "application/json", "User-Agent": "eau2"})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"failed: no answer: {str(error) or type(error).__name__}"
        finally:
            over.cancel()
            with self._lock:
                self._connection = None
            connection.close()
        return f"{'answered' if status < 300 else 'failed: answered'} {status}"

    def _execute(self, command: tuple[str, ...], given: bytes, timeout_seconds: float) -> str:
        with tempfile.TemporaryFile() as document, tempfile.TemporaryFile() as said:
            document.write(given)
            document.seek(0)
            try:
                process = subprocess.Popen(
                    command, stdin=document, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
                )
            except OSError as error:
                return f"failed: {command[0]}: {error.strerror}"
            deadline = time.monotonic() + timeout_seconds
            while process.poll() is None and time.monotonic() < deadline and not self._ended.wait(_LOOK_SECONDS):
                pass
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and what it has started
                process.wait()
                why = "the server ended" if self._ended.is_set() else f"{timeout_seconds:g} s were over"
                return f"failed: {why}"
            if process.returncode == 0:
                return "exit 0"
            said.seek(0)
            words = " ".join(said.read(_SAID_BYTES_MAX).decode("utf-8", "replace").split())
            return f"failed: exit {process.returncode} {words}".rstrip()


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a call that another thread waits in."""
    if (open_socket := connection.sock) is not None:
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)
