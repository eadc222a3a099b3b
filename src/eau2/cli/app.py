"""The commands in their order, and what every call goes through: options, errors, signals and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import typer

from eau2.cli import certificate, cluster, doors, fleet, frames, nodes, programs, upkeep, values
from eau2.cli.arena import begin_anew_with_one_arena
from eau2.cli.bench import bench
from eau2.cli.call import DebugOption, Given, JsonOption, StoreOption, with_common_options
from eau2.cli.exits import DONE, PipeClosed, exit_code, show_error
from eau2.cli.interrupts import INTERRUPTED, interruptible
from eau2.cli.joining import join, leave
from eau2.cli.run import run
from eau2.cli.top import top
from eau2.query.engine_errors import interruption

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "Values": (values.put, values.get, values.delete, values.keys, values.wait),
    "Frames": (frames.load, frames.show, frames.sql),
    "Programs": (run, programs.wordcount, programs.linus, programs.sor),
    "A cluster": (cluster.up, cluster.down, cluster.deploy, join, leave, nodes.nodes, cluster.drain),
    "Every node": (fleet.exec, fleet.push),
    "Doors": (doors.serve, doors.crud, certificate.certificate),
    "The store": (top, upkeep.check, upkeep.doctor, bench, upkeep.version),
}


def application() -> typer.Typer:
    """Return the command line as typer has it."""
    app = typer.Typer(
        name="eau2",
        help="A directory of named bytes and dataframes that processes share.",
        epilog="eau2 load trips FILE.csv; eau2 sql 'select count(*) from trips'",
        context_settings={"help_option_names": ["--help", "-h"]},
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_before)
    for panel, commands in COMMANDS.items():
        for command in commands:
            app.command(command.__name__, rich_help_panel=panel)(with_common_options(command))
    return app


def _before(
    ctx: typer.Context,
    store: StoreOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    ctx.obj = Given(store, json)
    if ctx.invoked_subcommand is None:
        ctx.fail("a command is missing")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `eau2` and exit with the code that EXIT_CODES in eau2.cli.exits has for what happened."""
    _have_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        begin_anew_with_one_arena(given)
    code = _run(programs.translated(given))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
    if code in INTERRUPTED or (arguments is None and "eau2.remote.ray" in sys.modules):
        os._exit(code)  # all is closed and removed by now; Python would still wait for the engine's threads, or for Ray
    sys.exit(code)


def _have_streams() -> None:
    """Have what was closed by who started us lead nowhere: else the next file that is opened would be it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _run(given: list[str]) -> int:
    before_values = given[: given.index("--")] if "--" in given else given  # what follows `--` is no option
    try:
        # A name that is not UTF-8 has lone surrogates, and a terminal may not have every character.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        with interruptible():
            try:
                return application()(given, standalone_mode=False) or DONE
            except SystemError as error:
                if (stop := interruption(error)) is not None:
                    raise stop from None
                raise
    except PipeClosed as error:
        _leave_pipe()
        return exit_code(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE
    except KeyboardInterrupt as error:
        return exit_code(error)
    except BaseException as error:  # the one place where every error becomes a sentence and a code
        show_error(error, as_json="--json" in before_values, debug="--debug" in before_values)
        return exit_code(error)


def _leave_pipe() -> None:
    """Send what is still buffered nowhere, so that Python does not complain of the closed pipe when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
