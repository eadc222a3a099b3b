"""The rules of alerts, as a file has them: what is to be looked for, and what is done when it is found.

every_seconds = 5                # between two looks
keep_seconds = 3600              # of figures, in the store

[[rule]]
name = "a node is away"
when = "select node, value from metrics where name = 'live' and value < 1"
for_seconds = 10                 # it must hold so long
repeat_seconds = 3600            # while it holds, the action is done again after so long; never unless given
action = "log"                   # or { webhook = "https://..." } or { command = ["program", "argument"] }
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eau2.errors import Eau2Error, InvalidOption, failed_call

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

RULES_MAX = 200
NAME_CHARACTERS_MAX = 100
TIMEOUT_SECONDS = 10.0  # of an action, unless it says otherwise
TIMEOUT_SECONDS_MAX = 60.0
_EVERY_SECONDS, _KEEP_SECONDS = 5.0, 3600.0
_EVERY_SECONDS_MIN, _KEEP_SECONDS_MAX = 1.0, 7 * 86400.0
_LONG = 366 * 86400.0
_HEAD = re.compile(r"\s*\[\[\s*rule\s*\]\]")
_FILE_KEYS = ("every_seconds", "keep_seconds", "rule")
_RULE_KEYS = ("name", "when", "for_seconds", "repeat_seconds", "action")
_ACTIONS = ("webhook", "command")


@dataclass(frozen=True, slots=True)
class Action:
    """What is done: a POST to `webhook`, or the program `command`; a line of the log where there is neither."""

    webhook: str = ""
    command: tuple[str, ...] = ()
    timeout_seconds: float = TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition in SQL, each row of whose answer is an alert, and what is done about it."""

    name: str
    when: str
    action: Action
    for_seconds: float = 0.0  # that it must hold
    repeat_seconds: float = math.inf  # after which the action is done again, while it holds


@dataclass(frozen=True, slots=True)
class Rules:
    """What a file has. `every_seconds`: between two looks. `keep_seconds`: how long figures stay in the store."""

    rules: tuple[Rule, ...]
    every_seconds: float = _EVERY_SECONDS
    keep_seconds: float = _KEEP_SECONDS


def read_rules(path: str | os.PathLike[str], check: Callable[[str], object]) -> Rules:
    """Return the rules of the file at `path`. `check` raises for what is no query of the figures.

    InvalidOption names the first rule that is wrong, its line, and what is wrong with it; StoreUnusable and the like
    where the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise failed_call(error, path) from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{path} is no text in UTF-8: {error.reason}") from None
    return parsed_rules(text, str(path), check)


def parsed_rules(text: str, path: str, check: Callable[[str], object]) -> Rules:
    """As `read_rules`, of the text of a file."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # it says where
        raise InvalidOption(f"{path} is no TOML: {error}", hint="docs/alerts.md has an example") from None
    return _File(path, text, check).rules(document)


@dataclass
class _File:
    path: str
    text: str
    check: Callable[[str], object]
    where: str = field(init=False, default="")  # the rule that is looked at, and its lines
    first: int = field(init=False, default=0)
    lines: list[str] = field(init=False, default_factory=list)

    def rules(self, document: dict[str, Any]) -> Rules:
        self._begin("", 0, self.text.split("\n"))
        self._known(document, _FILE_KEYS)
        every = self._seconds(document, "every_seconds", _EVERY_SECONDS, _EVERY_SECONDS_MIN, _LONG)
        keep = self._seconds(document, "keep_seconds", _KEEP_SECONDS, every, _KEEP_SECONDS_MAX)
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self._wrong("rule", "rules are tables, each under a [[rule]] of its own")
        if len(tables) > RULES_MAX:
            raise self._wrong("rule", f"{len(tables)} rules are over the limit of {RULES_MAX}")
        found: list[Rule] = []
        for number, table in enumerate(tables, 1):
            self._find(number, len(tables), table)
            rule = self._rule(table)
            if rule.name in [other.name for other in found]:
                raise self._wrong("name", "another rule has that name")
            found.append(rule)
        return Rules(tuple(found), every, keep)

    def _find(self, number: int, count: int, table: dict[str, Any]) -> None:
        """Have errors say that they are of that rule, and its lines. Of tables that are not written under a [[rule]]
        each, the lines are not known."""
        name = table.get("name")
        lines = self.text.split("\n")
        heads = [index for index, line in enumerate(lines) if _HEAD.match(line)]
        first, end = (heads[number - 1], [*heads, len(lines)][number]) if len(heads) == count else (0, 0)
        self._begin(f"rule {name!r}" if isinstance(name, str) and name else f"rule {number}", first, lines[first:end])

    def _begin(self, where: str, first: int, lines: list[str]) -> None:
        self.where, self.first, self.lines = where, first, lines

    def _rule(self, table: dict[str, Any]) -> Rule:
        self._known(table, _RULE_KEYS)
        name, when = self._text(table, "name"), self._text(table, "when")
        if len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
            raise self._wrong("name", f"a name has at most {NAME_CHARACTERS_MAX} characters, on one line")
        try:
            self.check(when)
        except Eau2Error as error:
            raise self._wrong("when", error.message, hint=error.hint) from None
        return Rule(
            name,
            when,
            self._action(table),
            self._seconds(table, "for_seconds", 0.0, 0.0, _LONG),
            self._seconds(table, "repeat_seconds", math.inf, 1.0, _LONG),
        )

    def _action(self, table: dict[str, Any]) -> Action:
        given = table.get("action")
        if given == "log":
            return Action()
        if not isinstance(given, dict) or sum(name in given for name in _ACTIONS) != 1:
            forms = 'action = "log", { webhook = "https://..." } or { command = ["program", "argument"] }'
            raise self._wrong("action", f"an action is one of these: {forms}")
        self._known(given, (*_ACTIONS, "timeout_seconds"), "action")
        timeout = self._seconds(given, "timeout_seconds", TIMEOUT_SECONDS, 0.1, TIMEOUT_SECONDS_MAX, "action")
        if "webhook" in given:
            return Action(webhook=self._webhook(given["webhook"]), timeout_seconds=timeout)
        command = given["command"]
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            raise self._wrong("action", "a command is a list of words, the program first")
        if not command[0] or any("\0" in word for word in command):
            raise self._wrong("action", "a command has a program, and no zero bytes")
        return Action(command=tuple(command), timeout_seconds=timeout)

    def _webhook(self, given: object) -> str:
        try:
            parts = urlsplit(given) if isinstance(given, str) and given.isascii() and given.isprintable() else None
            good = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
            good = good and parts is not None and parts.port != 0 and parts.username is None and " " not in str(given)
        except ValueError:
            good = False
        if not good:
            raise self._wrong("action", f"a webhook is http://... or https://..., not {given!r:.200}")
        return str(given)

    # -- values -------------------------------------------------------------------------------------------------------

    def _text(self, table: dict[str, Any], key: str) -> str:
        found = table.get(key)
        if not isinstance(found, str) or not found.strip():
            what = "is missing" if found is None else f"is a text, not {found!r:.100}"
            raise self._wrong(key, f"{key} {what}")
        return found

    def _seconds(
        self, table: dict[str, Any], key: str, otherwise: float, least: float, most: float, within: str = ""
    ) -> float:
        found = table.get(key, otherwise)
        if key not in table:
            return otherwise
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not least <= found <= most:
            raise self._wrong(within or key, f"{key} is {least:g} to {most:g} seconds, not {found!r:.100}")
        return float(found)

    def _known(self, table: dict[str, Any], keys: tuple[str, ...], within: str = "") -> None:
        for key in table:
            if key not in keys:
                near = get_close_matches(key, keys, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(keys)}"
                raise self._wrong(within or key, f"there is no {key!r:.100} here", hint=hint)

    def _wrong(self, key: str, what: str, *, hint: str = "") -> InvalidOption:
        """Return the error that says `what` is wrong with `key`, and the line of that, or of its rule."""
        line = next((index for index, text in enumerate(self.lines) if re.match(rf"\s*{re.escape(key)}\s*=", text)), 0)
        at = f":{self.first + line + 1}" if self.lines else ""
        rule = f"{self.where}: " if self.where else ""
        return InvalidOption(f"{self.path}{at}: {rule}{what}", hint=hint or "docs/alerts.md has an example")
