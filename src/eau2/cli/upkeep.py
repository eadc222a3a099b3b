"""check, doctor and version: the store itself, and what it stands on."""

import dataclasses
import time

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.diagnosis import Finding, examine
from eau2.cli.exits import NEGATIVE, printable
from eau2.cli.screen import counted, facts, seconds_text, size_text
from eau2.cli.versions import versions
from eau2.store.nodes import Fault, NodeCheck

FAULTS_SHOWN_MAX = 50


def check(call: Call) -> None:
    """Verify every checksum and every reference.

    Exit 1 when anything is wrong.
    """
    begun = time.monotonic()
    with call.reading() as store:
        found = store.check()
    seconds = time.monotonic() - begun
    call.answer(dataclasses.asdict(found), lambda console: _checked(call, found, seconds))
    if found.faults:
        raise typer.Exit(NEGATIVE)


def _checked(call: Call, found: NodeCheck, seconds: float) -> RenderableType:
    looked = f"{counted(found.keys, 'key')}, {counted(found.chunks, 'chunk')}, {size_text(found.bytes)}"
    head = Text(f"{printable(call.store_path)}: {looked} checked in {seconds_text(seconds)}: ")
    if not found.faults:
        return head.append("all right", style="bold green")
    head.append(counted(len(found.faults), "fault"), style="bold red")
    lines = [Text.assemble(("  ✗ ", "red"), _fault(fault)) for fault in found.faults[:FAULTS_SHOWN_MAX]]
    if len(found.faults) > FAULTS_SHOWN_MAX:
        lines.append(Text(f"  ... and {len(found.faults) - FAULTS_SHOWN_MAX:,} more; --json has all"))
    return Group(head, *lines)


def _fault(fault: Fault) -> str:
    where = [repr(fault.key)] if fault.key else []
    where += [printable(fault.file)] if fault.file and fault.file not in fault.what else []
    return f"{', '.join(where)}: {printable(fault.what)}" if where else printable(fault.what)


def doctor(call: Call) -> None:
    """Look at the machine and the store for what is off.

    Prints versions, limits, disk and memory, and a hint for each finding. Exit 1 when something is broken.
    """
    found = examine(call.store_path)
    call.answer(found.to_dict(), lambda console: _diagnosed(console, found.groups, found.findings))
    if any(finding.broken for finding in found.findings):
        raise typer.Exit(NEGATIVE)


def _diagnosed(console: Console, groups: dict[str, dict[str, str]], findings: list[Finding]) -> RenderableType:
    parts: list[RenderableType] = []
    for title, pairs in groups.items():
        parts += [Text(title, style="bold"), facts((f"  {name}", value) for name, value in pairs.items()), Text("")]
    if not findings:
        return Group(*parts, Text("nothing looks off", style="bold green"))
    for finding in findings:
        mark = ("✗ ", "bold red") if finding.broken else ("! ", "bold yellow")
        parts.append(Text.assemble(mark, printable(finding.what)))
        parts.append(Text(f"  hint: {printable(finding.hint)}", style="dim"))
    return Group(*parts)


def version(call: Call) -> None:
    """Print the version; with --json also those of its parts."""
    found = versions()
    call.answer(found, lambda _: Text(f"eau2 {found['eau2']}"))
