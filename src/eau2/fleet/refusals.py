"""Attempts to run something that were refused: who, when, what and why. Beside the journal, and never in its way.

<node>/refused.ndjson    a line each, the newest; a flood of them drives out others of them, and no run
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from eau2.errors import failed_call

REFUSALS_MAX = 500  # on a node: at most twice as many lines are in the file
NODES = 3  # that are told of one that did not reach them by itself
_CHARACTERS_MAX = 300  # of each of its texts
_FILE = "refused.ndjson"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An attempt that was refused. Of one that was refused before it was read, `text` is ""."""

    id: str  # of the run, if it had been one
    time: float  # Unix time
    user: str
    host: str
    kind: str  # command, script, push; "" when that is not known
    text: str
    why: str


class Refusals:
    """Those that node `directory` knows of. Read when first needed. Thread-safe."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = Path(directory) / _FILE
        self._lock = threading.Lock()  # guards everything below
        self._known: dict[str, Refusal] | None = None
        self._lines = 0

    def note(self, refusal: Refusal) -> None:
        """Keep `refusal`; nothing when it is kept already. It survives the end of the process. DiskFull,
        StoreUnusable."""
        with self._lock:
            known = self._read()
            if refusal.id in known:
                return
            known[refusal.id] = cut = _cut(refusal)
            if len(known) > REFUSALS_MAX:
                del known[min(known)]
            try:
                if self._lines >= 2 * REFUSALS_MAX:
                    self._write_anew(known)
                else:
                    with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                        file.write(_line(cut))
                    self._lines += 1
            except OSError as error:
                raise failed_call(error, self._path) from error

    def newest(self, limit: int) -> list[Refusal]:
        """Return the `limit` newest, the newest first. StoreUnusable."""
        with self._lock:
            known = self._read()
            return [known[one] for one in sorted(known, reverse=True)[:limit]]

    def _read(self) -> dict[str, Refusal]:
        if self._known is None:
            self._known = {}
            try:
                lines = self._path.read_bytes().splitlines()
            except FileNotFoundError:
                lines = []
            except OSError as error:
                raise failed_call(error, self._path) from error
            self._lines = len(lines)
            for line in lines:
                try:
                    refusal = Refusal(**json.loads(line))
                except (ValueError, TypeError):  # cut short by a kill
                    continue
                self._known[refusal.id] = refusal
            for one in sorted(self._known)[:-REFUSALS_MAX]:
                del self._known[one]
        return self._known

    def _write_anew(self, known: dict[str, Refusal]) -> None:
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.writelines(_line(known[one]) for one in sorted(known))
        new.replace(self._path)
        self._lines = len(known)


def _cut(refusal: Refusal) -> Refusal:
    texts = {name: _text(value) for name, value in asdict(refusal).items() if isinstance(value, str)}
    return Refusal(**texts, time=refusal.time)


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()[:_CHARACTERS_MAX]


def _line(refusal: Refusal) -> bytes:
    return json.dumps(asdict(refusal)).encode() + b"\n"
