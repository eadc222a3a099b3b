"""One run on one node: it is done once, and whoever asks for it hears the same."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error
from eau2.fleet.files import Receiving
from eau2.fleet.process import CommandProcess
from eau2.fleet.run import Command, Ended, Output, Push, Script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.fleet.files import Parts
    from eau2.fleet.journal import Journal
    from eau2.fleet.kept import Keeping
    from eau2.fleet.run import Run, State, Stream

    Hear = Callable[[Output | Ended], None]

KEPT_BYTES = 1 << 20  # of what a command has written: for who asks when whoever had asked was lost
ORPHAN_SECONDS = 15.0  # without anybody who listens: whoever takes over comes sooner
_WAIT_SECONDS = 1.0  # a bound on one wait; the loop around it waits on
_STOP_SECONDS = 2.0


class Execution:
    """`run` on node `name`, which `journal` says is to be begun. Thread-safe.

    Ended by `cancel`, at its deadline, and when nobody has held it for `orphan_seconds`. keeping: keeps what it writes.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        journal: Journal,
        *,
        keeping: Keeping | None = None,
        orphan_seconds: float = ORPHAN_SECONDS,
    ) -> None:
        self.name, self.run = name, run
        self._journal, self._keeping = journal, keeping
        self._orphan_seconds = orphan_seconds
        self._process = CommandProcess(orphan_seconds) if not isinstance(run.work, Push) else None
        self._receiving: Receiving | None = None
        self._cancelled = threading.Event()
        self._is_left = False  # by its node
        self.has_ended = threading.Event()
        self._holding = threading.Lock()  # guards the two below
        self._held = 0
        self._orphaned: threading.Timer | None = None
        self._saying = threading.Lock()  # guards what is below, and keeps what is said in order
        self._hearing: list[Hear] = []
        self._kept: deque[Output] = deque()
        self._kept_bytes = 0
        self._written: dict[str, int] = {"out": 0, "err": 0}
        self._outcome: Ended | None = None
        failed = self._open()
        self._thread = threading.Thread(target=self._do, args=(failed,), name="eau2-run", daemon=True)
        self._thread.start()

    def _open(self) -> OSError | None:
        if isinstance(self.run.work, Push):
            try:
                self._receiving = Receiving(self.run.work, self.name, self.run.id)
            except OSError as error:
                return error
        return None

    # -- who listens --------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Somebody waits for it: it does not end for want of that."""
        with self._holding:
            self._held += 1
            self._not_orphaned()

    def listen(self, hear: Hear) -> None:
        """Have `hear` told all that is known, and what comes. It may wait; then the command does too."""
        with self._saying:
            for said in self._kept:
                hear(said)
            if self._outcome is not None:
                hear(self._outcome)
            else:
                self._hearing.append(hear)

    def let_go(self, hear: Hear) -> None:
        """Who held it waits no more, and `hear` is told nothing more. When nobody is left it ends, some time later."""
        with self._saying:
            if hear in self._hearing:
                self._hearing.remove(hear)
        with self._holding:
            self._held -= 1
            if not self._held and not self.has_ended.is_set():
                self._orphaned = threading.Timer(self._orphan_seconds, self.cancel)
                self._orphaned.name, self._orphaned.daemon = "eau2-orphan", True
                self._orphaned.start()

    @property
    def is_idle(self) -> bool:
        """Whether it has ended, and nobody waits for what is left to say or pass on."""
        return self.has_ended.is_set() and not self._held

    # -- what is done --------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Parts | None:
        """What those below get from here, of files that are pushed. None when there is nothing to get."""
        return self._receiving

    def take(self, number: int, data: bytes) -> None:
        """Take in a part of a file."""
        if self._receiving is not None:
            self._receiving.take(number, data)

    def cancel(self) -> None:
        """End it. Not waited for. Idempotent."""
        self._cancelled.set()
        if self._process is not None:
            self._process.end()
        if self._receiving is not None:
            self._receiving.give_up()

    def close(self) -> None:
        """The node ends, or forgets it: end it, and wait for that at most 2 s; those below get nothing more from here.
        Idempotent."""
        self._is_left = True
        if self._process is not None:
            self._process.kill()
        self.cancel()
        with self._holding:
            self._not_orphaned()
        self._thread.join(_STOP_SECONDS)
        if self._receiving is not None:
            self._receiving.close()

    def _do(self, failed: OSError | None) -> None:
        begun = time.monotonic()
        code: int | None = None
        why = ""
        try:
            if failed is not None:
                raise failed
            state, code = self._receive() if self._receiving is not None else self._run()
        except (OSError, ValueError) as error:  # ValueError: an argument that no program can be given
            state, why = "failed", _reason(error)
        if state in ("deadline", "cancelled"):
            code = None
        if state == "cancelled" and self._is_left:
            state, why = "lost", "the node was ended while it ran"
        self._end(Ended(self.name, state, code, time.monotonic() - begun, why))

    def _end(self, ended: Ended) -> None:
        if self._keeping is not None:
            self._keeping.close()
        try:
            self._journal.end(self.run.id, ended, (self._written["out"], self._written["err"]))
        except Eau2Error as error:  # the disk is full: the caller hears what the audit log will not say
            ended = ended._replace(why=f"{ended.why}; not in the audit log: {error}".lstrip("; "))
        with self._saying:
            self._outcome = ended
            hearing, self._hearing = self._hearing, []
            for hear in hearing:
                hear(ended)
        with self._holding:
            self.has_ended.set()
            self._not_orphaned()

    def _not_orphaned(self) -> None:
        if self._orphaned is not None:
            self._orphaned.cancel()
            self._orphaned = None

    def _run(self) -> tuple[State, int | None]:
        assert self._process is not None  # it is no push
        work = self.run.work
        with contextlib.ExitStack() as stack:
            if isinstance(work, Script):
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="eau2-run-"))
                arguments = _written(work, folder)
            else:
                assert isinstance(work, Command)
                arguments = work.arguments
            environment = os.environ | {"EAU2_NODE": self.name, "EAU2_RUN": self.run.id}
            return self._process.run(arguments, environment, self._say, self.run.deadline_seconds)

    def _receive(self) -> tuple[State, int | None]:
        receiving = self._receiving
        assert receiving is not None  # it is a push
        deadline = time.monotonic() + (self.run.deadline_seconds or float("inf"))
        while not receiving.wait(min(_WAIT_SECONDS, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                receiving.close()
                return "deadline", None
        if self._cancelled.is_set():
            receiving.close()
            return "cancelled", None
        receiving.finish()
        return "ended", 0

    def _say(self, stream: Stream, data: bytes) -> None:
        with self._saying:
            said = Output(self.name, stream, self._written[stream], data)
            if self._keeping is not None:
                self._keeping.write(stream, said.start, data)
            self._written[stream] += len(data)
            self._kept.append(said)
            self._kept_bytes += len(data)
            while self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popleft().data)
            for hear in self._hearing:
                hear(said)


def _written(script: Script, folder: str) -> Sequence[str]:
    path = os.path.join(folder, os.path.basename(script.name) or "script")
    with open(path, "wb") as file:
        file.write(script.content)
    os.chmod(path, 0o700)
    return (*script.interpreter(), path, *script.arguments)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return str(error)
