"""What drivers did, written down as they do it: a line when an operation begins and one when it ends, as a driver may
be killed at any time. Times are of the machine's one monotonic clock."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.cluster.history import Conflict, Operation, Refused, Saw, Wrote, explain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LONGEST_SECONDS_MAX = 60.0  # against hangs, on a machine that may be overloaded
BEGUN, DONE, NOTHING, MAYBE, WRONG = "begun", "done", "nothing", "maybe", "wrong"  # what a line says


class Log:
    """The file at `path`, to which any threads add."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers = itertools.count()

    def begin(self, client: str, verb: str, parts: Iterable[Saw | Wrote] = ()) -> int:
        """An operation begins; `parts` is what it may do."""
        number = next(self._numbers)
        self._add(number, BEGUN, client, verb, [_plain(part) for part in parts])
        return number

    def end(self, number: int, word: str, parts: Iterable[Saw | Wrote] = (), text: str = "") -> None:
        """It ended. DONE: it did `parts`. NOTHING: it failed, read nothing and changed nothing. MAYBE: it failed, and
        may yet do what it began. WRONG: that should not be. `text`: what it said."""
        self._add(number, word, text, [_plain(part) for part in parts])

    def _add(self, *words: object) -> None:
        os.write(self._file, json.dumps([time.monotonic(), *words]).encode() + b"\n")  # whole: it is short

    def close(self) -> None:
        os.close(self._file)


@dataclass
class Told:
    """What the logs say."""

    operations: list[Operation] = field(default_factory=list)
    verbs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unended: list[str] = field(default_factory=list)
    longest: list[tuple[float, str]] = field(default_factory=list)

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Told:
        told = cls()
        for path in paths:
            told._read(path)
        told.longest.sort(reverse=True)
        return told

    def _read(self, path: Path) -> None:
        begun: dict[int, tuple[float, str, str, list]] = {}
        for line in path.read_text().splitlines():
            now, number, word, *rest = json.loads(line)
            if word == BEGUN:
                begun[number] = now, *rest
                continue
            start, client, verb, parts = begun.pop(number)
            text, came_to = rest
            self.verbs[verb] += 1
            self.longest.append((now - start, f"{client} {verb} {text}"))
            if word == DONE:
                self._note(client, start, now, came_to)
                continue
            self.failures[f"{verb} {word}: {text.split(':')[0]}"] += 1
            if word == MAYBE:
                self._note(client, start, math.inf, parts)
            elif word == WRONG:
                self.wrong.append(f"{start:.3f} to {now:.3f} {client} {verb}: {text}")
        for start, client, verb, parts in begun.values():
            self.unended.append(f"{start:.3f} {client} {verb}")
            self._note(client, start, math.inf, [part for part in parts if part[0] == "wrote"])

    def _note(self, client: str, start: float, end: float, parts: list) -> None:
        made = tuple(_part(*part) for part in parts)
        if made:
            self.operations.append(Operation(client, start, end, made))

    def verdict(self, killed: Iterable[str] = ()) -> list[str]:
        """Return what is wrong: what should not be said, what did not end (unless its driver was `killed`) or took too
        long, and why no order explains what was seen."""
        unended = [one for one in self.unended if not any(f" {name}." in one for name in killed)]
        late = [f"{seconds:.1f} s: {what}" for seconds, what in self.longest if seconds > LONGEST_SECONDS_MAX]
        contradiction = explain(self.operations)
        return [*self.wrong, *unended, *late, *([contradiction] if contradiction else [])]

    def __str__(self) -> str:
        lines = [f"{sum(self.verbs.values())} operations {dict(self.verbs)}", f"failed {dict(self.failures)}"]
        return "\n".join([*lines, *(f"took {seconds:.1f} s: {what}" for seconds, what in self.longest[:20])])


def _plain(part: Saw | Wrote) -> list:
    if isinstance(part, Saw):
        return ["saw", *part]
    outcome: object = part.outcome
    if isinstance(outcome, Refused):
        outcome = outcome.value
    elif isinstance(outcome, Conflict):
        outcome = [outcome.found]
    return ["wrote", part.key, part.value, outcome, part.expect]


def _part(kind: str, key: str, value: object, *rest: object) -> Saw | Wrote:
    if kind == "saw":
        return Saw(key, value, *rest)
    outcome, expect = rest
    if isinstance(outcome, str):
        outcome = Refused(outcome)
    elif isinstance(outcome, list):
        outcome = Conflict(*outcome)
    return Wrote(key, value, outcome, expect)
