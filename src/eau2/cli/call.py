"""One call of a command: what every command has in common."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eau2.cli.exits import PipeClosed, StoreAbsent
from eau2.cli.screen import screen
from eau2.errors import Eau2Error, InvalidOption, WaitTimeout
from eau2.opening import open as open_store
from eau2.remote.address import SCHEME
from eau2.served.address import SCHEME as SERVED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from eau2.store.store import Store

STORE_DEFAULT = "eau2-data"
_LOOK_SECONDS = 0.01  # between two looks for a store that another process is to make

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="PATH", help="A directory, ray:, or eau2://HOST:PORT; else EAU2_STORE, else ./eau2-data."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]


@dataclass(frozen=True)
class Given:
    """The common options that came before the command."""

    store: str | None
    json: bool


@dataclass(frozen=True)
class Call:
    """What a command is given besides its own arguments."""

    store_path: str
    json: bool
    store_given: bool  # False: nobody named one, and store_path is the default

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """Open the store, which must be there: StoreAbsent otherwise, and none is made."""
        if not self.store_exists():
            raise StoreAbsent(
                f"there is no store at {self.store_path}",
                hint="`eau2 put` and `eau2 load` make one; --store or EAU2_STORE say where it is",
            )
        with self.making() as store:
            yield store

    @contextmanager
    def making(self) -> Iterator[Store]:
        """Open the store, making it when there is none."""
        with open_store(self.store_path) as store:
            try:
                yield store
            except Eau2Error as error:
                str(error)  # KeyMissing looks for near keys when it is first read, which takes an open store
                raise

    def store_exists(self) -> bool:
        """Whether opening would find something: a store, or what is none. An empty directory is nothing."""
        if self.store_path.startswith((SCHEME, SERVED)):
            return True  # opening says whether it is
        path = Path(self.store_path)
        try:
            return path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None)
        except OSError:
            return True  # opening says why it cannot be read

    def wait_for_store(self, deadline: float) -> None:
        """Return when there is a store; WaitTimeout when there is none by `deadline` of time.monotonic()."""
        while not self.store_exists():
            if time.monotonic() >= deadline:
                raise WaitTimeout(f"no process made a store at {self.store_path} in time", hint="is --store right?")
            time.sleep(_LOOK_SECONDS)

    def answer(self, document: object, show: Callable[[Console], RenderableType | None]) -> None:
        """Print `document` with --json, and otherwise what `show` returns (it may also print by itself)."""
        if self.json:
            print_json(document)
            return
        console = screen()
        shown = show(console)
        if shown is not None:
            console.print(shown)


def print_json(document: object) -> None:
    """Print `document` on one line of UTF-8. Half a character, as in a broken file name, is printed as its escape."""
    sys.stdout.flush()
    sys.stdout.buffer.write(json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()


def with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` as typer is to see it: without its first parameter, the Call, and with the common options."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    @functools.wraps(command)
    def run(ctx: typer.Context, store: str | None, json: bool, debug: bool, **options: Any) -> None:
        before: Given = ctx.obj
        given = before.store if store is None else store
        if given == "":  # an empty variable of a script: not to be mistaken for the default
            raise InvalidOption("--store is the path of a directory, not ''")
        named = given or os.environ.get("EAU2_STORE")
        try:
            command(Call(named or STORE_DEFAULT, json or before.json, store_given=bool(named)), **options)
        except BrokenPipeError as error:  # typer would make it a failure
            raise PipeClosed from error

    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter("ctx", keyword, annotation=typer.Context),
        *(parameter.replace(kind=keyword) for parameter in own),
        inspect.Parameter("store", keyword, default=None, annotation=StoreOption),
        inspect.Parameter("json", keyword, default=False, annotation=JsonOption),
        inspect.Parameter("debug", keyword, default=False, annotation=DebugOption),
    ]
    run.__signature__ = inspect.Signature(common)  # type: ignore[attr-defined]
    return run
