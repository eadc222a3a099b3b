"""Runs on every node, as the page has them: those that its server has begun, and documents of all. The nodes' journals
say what there is; what only who began a run hears (of a node that was dead) is kept here for a while.
"""

from __future__ import annotations

import codecs
import socket
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eau2.errors import Eau2Error, InvalidValue, StoreBusy, ValueTooLarge
from eau2.fleet.run import SCRIPT_BYTES_MAX, Command, Ended, Run, Script, new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.fleet.any_fleet import AnyFleet, Audited, Written
    from eau2.fleet.journal import Record
    from eau2.fleet.kept import Piece
    from eau2.fleet.refusals import Refusal
    from eau2.fleet.run import Output

    Document = dict[str, Any]

RUNS_SENT = 50
BEGUN_MAX = 16  # that run at a time for pages of one server
_KEPT_MAX = 100  # runs of which it is kept what was heard
_SHELL_BYTES_MAX = 64 << 10  # of a script that is given to the shell as an argument, and so is whole in the audit log
_NODES_SENT = 8  # names with each outcome in a list


class Begun:
    """The runs that pages of this server have begun. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._ended: dict[str, dict[str, Ended]] = {}
        self._failed: dict[str, str] = {}
        self._running: dict[str, AnyFleet] = {}

    def begin(self, fleet: AnyFleet, run: Run, names: Sequence[str], *, rolling: bool = False) -> None:
        """Have `names` do `run`, in a thread. StoreBusy when too many are under way."""
        with self._lock:
            if len(self._running) >= BEGUN_MAX:
                raise StoreBusy(f"{BEGUN_MAX} runs of pages are under way here", hint="cancel one, or wait")
            self._running[run.id] = fleet
            self._ended[run.id] = {}
            for old in sorted(self._ended)[:-_KEPT_MAX]:
                self._ended.pop(old)
                self._failed.pop(old, None)
        following = (fleet.roll if rolling else fleet.run), run, names
        threading.Thread(target=self._follow, args=following, name="eau2-page-run", daemon=True).start()

    def _follow(self, do: Any, run: Run, names: Sequence[str]) -> None:
        def hear(said: Output | Ended) -> None:
            if isinstance(said, Ended):  # what it writes is kept by its node
                with self._lock:
                    self._ended.get(run.id, {})[said.node] = said

        try:
            do(run, names, hear)
        except Eau2Error as error:  # the page says so
            with self._lock:
                self._failed[run.id] = error.message
        finally:
            with self._lock:
                self._running.pop(run.id, None)

    def heard(self, run_id: str) -> tuple[dict[str, Ended], str, bool]:
        """Return what was heard of a run by node, why it could not go on, and whether it goes on."""
        with self._lock:
            known = dict(self._ended.get(run_id, {}))
            return known, self._failed.get(run_id, ""), run_id in self._running

    def close(self) -> None:
        """Have all that are under way ended. Not waited for: nodes end what nobody waits for by themselves."""
        with self._lock:
            running, self._running = self._running, {}
        for run_id, fleet in running.items():
            threading.Thread(target=_cancel, args=(fleet, run_id), name="eau2-page-cancel", daemon=True).start()


def _cancel(fleet: AnyFleet, run_id: str) -> None:
    try:
        fleet.cancel(run_id)
    except Eau2Error:  # the store was closed meanwhile
        return


# -- what is asked for -------------------------------------------------------------------------------------------------


def run_asked(asked: object, client: str, count: int) -> Run:
    """Return the run that a page asks for as JSON: {"script": ..., "deadline_seconds": ...}. InvalidValue,
    InvalidOption, ValueTooLarge."""
    script = asked.get("script") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or not isinstance(script, str) or not script.strip():
        raise InvalidValue("there is no script to run", hint='{"script": "uptime"}')
    content = script.encode("utf-8", "surrogatepass")
    if len(content) > SCRIPT_BYTES_MAX:
        raise ValueTooLarge(f"the script has {len(content)} bytes, and a script at most {SCRIPT_BYTES_MAX}")
    deadline = asked.get("deadline_seconds")
    if deadline is not None and (isinstance(deadline, bool) or not isinstance(deadline, (int, float))):
        raise InvalidValue("deadline_seconds is a number of seconds, or null")
    work: Command | Script = Script("script", content)
    if not script.startswith("#!") and len(content) <= _SHELL_BYTES_MAX:
        work = Command(("/bin/sh", "-c", script))
    now = time.time()
    return Run(new_id(now), now, "admin", came_by("the page", client), work, count, deadline)


def came_by(door: str, client: str) -> str:
    """Return what the journal says as the host of who came by a door of this server."""
    return f"{client} by {door} of {socket.gethostname()}"


def names_asked(asked: object) -> tuple[list[str], bool]:
    """Return the nodes that a page asks for, [] for all, and whether they do it one after the other. InvalidValue."""
    names = asked.get("nodes") or [] if isinstance(asked, dict) else None
    rolling = asked.get("rolling", False) if isinstance(asked, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidValue("nodes is a list of names, or null for all")
    if not isinstance(rolling, bool):
        raise InvalidValue("rolling is true or false")
    return names, rolling


# -- documents ---------------------------------------------------------------------------------------------------------


def run_list(found: Sequence[Audited], refused: Sequence[Refusal]) -> Document:
    """Return runs with what came of them, each outcome with how many nodes had it; and what was refused."""
    return {"runs": [_brief(one) for one in found], "refused": [asdict(one) for one in refused]}


def one_run(found: Audited | None, heard: tuple[dict[str, Ended], str, bool]) -> Document | None:
    """Return a run with what came of it on each node, also where only who began it knows that."""
    ended, failed, goes_on = heard
    if found is None:
        return None
    nodes = {name: _on(name, record) for name, record in found.on.items()}
    for name, one in ended.items():
        nodes.setdefault(name, {**one._asdict(), "out_bytes": 0, "err_bytes": 0})
    missing = found.record.nodes - len(nodes)
    return {
        **_facts(found.record),
        "running": found.is_running or goes_on,
        "failed": failed,
        "missing": max(0, missing),
        "nodes": [nodes[name] for name in sorted(nodes)],
    }


def output(written: Written) -> Document:
    """Return what was written to both streams as text, each piece with its bytes; `total` when it is over."""
    record = written.record
    return {
        "state": record.state,
        "out": _stream(written.out, record.out_bytes, over=record.state is not None),
        "err": _stream(written.err, record.err_bytes, over=record.state is not None),
    }


def _stream(pieces: Sequence[Piece], total: int, *, over: bool) -> Document:
    """The end of a character that is yet to be written is left for the next time."""
    found: list[Document] = []
    for number, (start, data) in enumerate(pieces, 1):
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        text = decoder.decode(data, final=over or number < len(pieces))
        found.append({"start": start, "end": start + len(data) - len(decoder.getstate()[0]), "text": text})
    return {"pieces": found, "total": total if over else None}


def _facts(record: Record) -> Document:
    known = ("id", "time", "user", "host", "kind", "text", "sha256")
    return {name: getattr(record, name) for name in known} | {"asked": record.nodes}


def _on(name: str, record: Record) -> Document:
    known = ("state", "code", "seconds", "why", "out_bytes", "err_bytes")
    return {"node": name, **{each: getattr(record, each) for each in known}}


def _brief(found: Audited) -> Document:
    outcomes: dict[tuple[str | None, int | None], list[str]] = {}
    for name, one in sorted(found.on.items()):
        outcomes.setdefault((one.state, one.code), []).append(name)
    return {
        **_facts(found.record),
        "running": found.is_running,
        "begun": len(found.on),
        "seconds": max(one.seconds for one in found.on.values()),
        "outcomes": [
            {"state": state, "code": code, "count": len(names), "nodes": names[:_NODES_SENT]}
            for (state, code), names in outcomes.items()
        ],
    }
