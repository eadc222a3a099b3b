"""Runs, and what comes of them, as a served store and its client say them to each other: in JSON. Pure."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eau2.errors import Eau2Error, InvalidValue
from eau2.fleet.any_fleet import Audited, Written
from eau2.fleet.journal import Record
from eau2.fleet.kept import Piece, require_id
from eau2.fleet.run import Command, Ended, File, Output, Push, Run, Script

if TYPE_CHECKING:
    from eau2.fleet.run import Work

    Header = dict[str, Any]


def run_said(run: Run) -> Header:
    """Return `run` as JSON has it."""
    work = run.work
    if isinstance(work, Command):
        said: Header = {"arguments": list(work.arguments)}
    elif isinstance(work, Script):
        content = base64.b64encode(work.content).decode()
        said = {"name": work.name, "content": content, "arguments": list(work.arguments)}
    else:
        said = {"files": [list(file) for file in work.files], "directory": work.directory}
    more = {name: getattr(run, name) for name in ("id", "time", "user", "host", "nodes", "deadline_seconds")}
    return {**more, "work": said}


def run_heard(said: Any) -> Run:
    """Return the run that was `run_said`. InvalidValue when it is none; InvalidOption, ValueTooLarge.

    >>> run = Run("0000000000001-aa", 1.0, "ann", "desk", Command(("date", "-u")), 2)
    >>> run_heard(run_said(run)) == run
    True
    """
    try:
        require_id(str(said["id"]))
        seconds = said["deadline_seconds"]
        return Run(
            id=str(said["id"]),
            time=float(said["time"]),
            user=str(said["user"]),
            host=str(said["host"]),
            work=_work(said["work"]),
            nodes=int(said["nodes"]),
            deadline_seconds=None if seconds is None else float(seconds),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, Eau2Error):
            raise
        raise InvalidValue(f"no run: {error!r:.200}") from None


def _work(said: Any) -> Work:
    if "files" in said:
        files = (File(str(name), int(size), int(mode) & 0o7777, str(sha)) for name, size, mode, sha in said["files"])
        return Push(tuple(files), str(said["directory"]))
    arguments = tuple(str(one) for one in said["arguments"])
    if "content" in said:
        return Script(str(said["name"]), base64.b64decode(said["content"]), arguments)
    return Command(arguments)


def thing_said(said: Output | Ended) -> tuple[Header, bytes]:
    """Return what a node says as a header and bytes."""
    if isinstance(said, Output):
        return {"output": [said.node, said.stream, said.start]}, said.data
    return {"ended": list(said)}, b""


def thing_heard(header: Header, data: bytes) -> Output | Ended | None:
    """Return what was `thing_said`; None for what is something else."""
    if "output" in header:
        node, stream, start = header["output"]
        return Output(node, stream, start, data)
    return Ended(*header["ended"]) if "ended" in header else None


def audited_said(found: Audited) -> Header:
    return {"record": asdict(found.record), "on": {name: asdict(record) for name, record in found.on.items()}}


def audited_heard(said: Header) -> Audited:
    return Audited(Record(**said["record"]), {name: Record(**record) for name, record in said["on"].items()})


def written_said(found: Written) -> tuple[Header, bytes]:
    """Return what was written as a header, with the place of each piece, and bytes."""
    sizes = [[[piece.start, len(piece.data)] for piece in stream] for stream in (found.out, found.err)]
    data = b"".join(piece.data for piece in (*found.out, *found.err))
    return {"record": asdict(found.record), "sizes": sizes}, data


def written_heard(said: Header, data: bytes) -> Written:
    """Return what was `written_said`."""
    streams: list[list[Piece]] = []
    at = 0
    for sizes in said["sizes"]:
        streams.append([])
        for start, size in sizes:
            streams[-1].append(Piece(start, data[at : at + size]))
            at += size
    return Written(Record(**said["record"]), *streams)
