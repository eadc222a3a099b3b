"""What the command line says and returns when something is wrong: one table, one sentence, one hint."""

from __future__ import annotations

import json
import re
import sys
import traceback

from rich.console import Console
from rich.text import Text
from typer.exceptions import TyperException

from eau2 import errors

DONE, NEGATIVE, USAGE, FAILED = 0, 1, 2, 3


class StoreAbsent(errors.Eau2Error, FileNotFoundError):
    """A command that only reads was given a directory that is not there, or is empty: it does not make one."""


class PipeClosed(Exception):
    """Whoever read standard output, such as `head`, has seen enough."""


# Options as Python has them, with their value where a hint gives one: the hints of errors speak to both.
_OPTION = re.compile(r"""\b(format|on_error|rejects|schema)=(?:(['"])(.*?)\2)?""")

# An error has the code of the nearest of its classes in this table. docs/command-line.md repeats it, and is tested.
EXIT_CODES: dict[type[BaseException], int] = {
    PipeClosed: DONE,
    StoreAbsent: NEGATIVE,
    errors.KeyMissing: NEGATIVE,
    errors.KeyExists: NEGATIVE,
    errors.VersionConflict: NEGATIVE,
    errors.WaitTimeout: NEGATIVE,
    errors.InvalidKey: USAGE,
    errors.InvalidValue: USAGE,
    errors.InvalidOption: USAGE,
    errors.ValueTooLarge: USAGE,
    errors.WrongKind: USAGE,
    errors.QueryError: USAGE,
    TyperException: USAGE,
    errors.Eau2Error: FAILED,
    Exception: FAILED,
    KeyboardInterrupt: 130,
    BaseException: FAILED,
}


def exit_code(error: BaseException) -> int:
    """Return the exit code of `error`.

    >>> exit_code(errors.UnknownTable("no table 't'")), exit_code(errors.LoadError("cut short"))
    (2, 3)
    """
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def sentence_and_hint(error: BaseException) -> tuple[str, str]:
    """Return what to say of `error`, and what to do next ('' when there is nothing to say)."""
    if isinstance(error, errors.Eau2Error):
        str(error)  # KeyMissing finds its hint when it is first read
        return error.message, _as_typed(error.hint)
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        command = "eau2" if context is None else context.command_path
        return _one_line(error.format_message()).rstrip("."), f"`{command} --help` shows how"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part), ""
    if isinstance(error, MemoryError):
        return "memory is exhausted", ""
    return f"unexpected {type(error).__name__}: {_one_line(str(error))}", "run it again with --debug to see where"


def show_error(error: BaseException, *, as_json: bool, debug: bool) -> None:
    """Write `error` to standard error: a sentence and a hint, or with `as_json` one JSON document."""
    if debug:
        traceback.print_exception(error)
    message, hint = sentence_and_hint(error)
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": message, "hint": hint}), file=sys.stderr)
        return
    console = Console(stderr=True, soft_wrap=True, highlight=False)  # a path cut at column 80 cannot be copied
    console.print(Text.assemble(("error: ", "bold red"), printable(message)))
    if hint:
        console.print(Text.assemble(("hint: ", "bold cyan"), printable(hint)))


def printable(text: str) -> str:
    r"""Return `text` on one line and without what would steer a terminal.

    >>> printable("a\nb\x1b[2J")
    'a\\nb\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(part if part.isprintable() else repr(part)[1:-1] for part in text)


def _as_typed(hint: str) -> str:
    """Return `hint` with options as one types them here.

    >>> _as_typed('on_error="report" leaves them out'), _as_typed("give format= one of csv, sor")
    ('--on-error report leaves them out', 'give --format one of csv, sor')
    """
    return _OPTION.sub(lambda found: f"--{found[1].replace('_', '-')} {found[3] or ''}".rstrip(), hint)


def _one_line(text: str) -> str:
    return " ".join(text.split())
