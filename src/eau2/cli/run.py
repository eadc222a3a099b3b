"""run: a program of the user's on every node of a store."""

import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from eau2.cli.call import Call
from eau2.errors import InvalidOption, ProgramFailed
from eau2.opening import open as open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.store.store import Store


def run(
    call: Call,
    program: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:CLASS]", help="A file with an eau2.Application; with several, which.", show_default=False
        ),
    ],
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", metavar="N", help="On how many nodes; 1, or as many as the store has.", min=1),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter of the program. May be repeated."),
    ] = None,
) -> None:
    """Run a program on every node at once.

    It runs on the store of --store or EAU2_STORE, and otherwise on one of its own, which is removed in the end.
    """
    from eau2.cli.rows import json_value  # these with Arrow's kernels: `eau2 keys` does without
    from eau2.programs.finding import program_in
    from eau2.programs.running import Run

    begun = time.monotonic()
    found, parameters = program_in(program), _parameters(param or [])
    printed: list[dict[str, str]] = []

    def keep(node: str, line: str) -> None:
        printed.append({"node": node, "line": line})

    with _store(call, nodes) as store:
        a_run = Run(found, store, parameters, show=keep if call.json else None)
        try:
            results = a_run.results()
        except ProgramFailed as error:
            if isinstance(error.__cause__, BrokenPipeError):  # `| head` has seen enough, which is no failure
                raise error.__cause__ from None
            raise
        document = {
            "program": found.__name__,
            "nodes": list(a_run.names),
            "seconds": round(time.monotonic() - begun, 3),
            "printed": printed,
            "results": json_value(results),
        }
    call.answer(document, lambda _: None)  # what it had to say it has printed


def _parameters(given: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InvalidOption(f"--param takes NAME=VALUE, not {text!r}")
        if name in found:
            raise InvalidOption(f"--param gives {name!r} twice")
        found[name] = value
    return found


@contextmanager
def _store(call: Call, nodes: int | None) -> "Iterator[Store]":
    if call.store_given:
        with open_store(call.store_path, nodes=nodes) as store:
            yield store
        return
    with (
        # What a thread still writes that was left behind (see running.GRACE_SECONDS) is not in the way.
        tempfile.TemporaryDirectory(prefix="eau2-run-", ignore_cleanup_errors=True) as folder,
        open_store(folder, nodes=nodes) as store,
    ):
        yield store
