"""What the page asks of runs on every node: see `routes.py`.

/monitor/runs                 runs and refused attempts; POST, of an admin: begins one
/monitor/runs/ID              one, with what came of it on each node
/monitor/runs/ID/output?node=&out=&err=    of an admin: what it has written there, from these bytes on
/monitor/runs/ID/cancel       POST, of an admin: ends it
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.routing import Route

from eau2.errors import InvalidOption, InvalidValue, NotAllowed, ValueTooLarge
from eau2.fleet.refusals import Refusal
from eau2.fleet.run import SCRIPT_BYTES_MAX
from eau2.monitor.documents import Document, number_asked
from eau2.monitor.runs import RUNS_SENT, names_asked, one_run, output, run_asked, run_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from eau2.fleet.any_fleet import AnyFleet
    from eau2.fleet.run import Run
    from eau2.monitor.routes import Asking
    from eau2.monitor.runs import Begun

_BODY_BYTES_MAX = 2 * SCRIPT_BYTES_MAX  # a line end is two characters in JSON
_BYTES_MAX = 1 << 40
_NO_CLUSTER = "this store is no cluster: commands run on the nodes of one that was started with `eau2 up --allow-exec`"


class RunPage:
    """The answers."""

    def __init__(
        self, begun: Begun, asking_of: Callable[[Request], Asking], answer: Callable[[Document], Response]
    ) -> None:
        self._begun, self._asking_of, self._answer = begun, asking_of, answer

    def routes(self, root: str) -> list[Route]:
        return [
            Route(f"{root}runs", self.runs),
            Route(f"{root}runs", self.begin, methods=["POST"]),
            Route(f"{root}runs/{{run}}", self.one),
            Route(f"{root}runs/{{run}}/output", self.output),
            Route(f"{root}runs/{{run}}/cancel", self.cancel, methods=["POST"]),
        ]

    async def runs(self, request: Request) -> Response:
        asking = self._asking_of(request)
        asking.may_take_long()
        return self._answer(await asking.work(self._runs, asking))

    def _runs(self, asking: Asking) -> Document:
        fleet = asking.store.node.fleet
        if fleet is None:
            return {"time": time.time(), "cluster": False, "why": _NO_CLUSTER, "nodes": [], **run_list([], [])}
        found = run_list(fleet.audit(RUNS_SENT), fleet.refusals(RUNS_SENT))
        why = _why_not(asking, fleet)
        return {"time": time.time(), "cluster": True, "why": why, "nodes": fleet.names(), **found}

    async def one(self, request: Request) -> Response:
        asking, run_id = self._asking_of(request), request.path_params["run"]
        fleet = _fleet(asking)
        asking.may_take_long()
        found = one_run(await asking.work(fleet.one, run_id), heard := self._begun.heard(run_id))
        if found is None and heard[1]:
            raise HTTPException(404, f"it was not begun: {heard[1]}")
        if found is None:
            raise HTTPException(404, "no node that answers knows of such a run")
        return self._answer(found | {"time": time.time(), "why": _why_not_output(asking)})

    async def output(self, request: Request) -> Response:
        asking, asked = self._asking_of(request), request.query_params
        if why := _why_not_output(asking):
            raise NotAllowed(why)
        fleet = _fleet(asking)
        starts = tuple(number_asked(asked.get(name, "0"), name, 0, _BYTES_MAX) for name in ("out", "err"))
        asking.may_take_long()
        run_id, node = request.path_params["run"], asked.get("node", "")
        found = await asking.work(_written, fleet, run_id, node, starts)
        if found is None:
            raise HTTPException(404, "the node knows of no such run")
        return self._answer(found)

    async def begin(self, request: Request) -> Response:
        asking = self._asking_of(request)
        asked = json_of(await _body(request))
        run, names, rolling = await asking.work(self._admitted, asking, asked)
        self._begun.begin(_fleet(asking), run, names, rolling=rolling)
        asking.audit("run begun", run=run.id, text=run.work.text[:300], sha256=run.work.sha256, nodes=names)
        return self._answer({"run": run.id, "nodes": names})

    def _admitted(self, asking: Asking, asked: object) -> tuple[Run, list[str], bool]:
        """Return what is asked for, if it may be; NotAllowed is written down."""
        fleet = asking.store.node.fleet
        why = _NO_CLUSTER if fleet is None else _why_not(asking, fleet)
        wanted, rolling = names_asked(asked)
        names = fleet.names(wanted) if fleet is not None and not why else wanted
        run = run_asked(asked, asking.client, len(names))
        if why or fleet is None:
            asking.audit("run refused", why=why, text=run.work.text[:300], sha256=run.work.sha256)
            if fleet is not None:
                kind = type(run.work).__name__.lower()
                fleet.refuse(Refusal(run.id, run.time, run.user, run.host, kind, run.work.text, why))
            raise NotAllowed(why)
        return run, names, rolling

    async def cancel(self, request: Request) -> Response:
        asking, run_id = self._asking_of(request), request.path_params["run"]
        fleet = _fleet(asking)
        if why := await asking.work(_why_not, asking, fleet):
            asking.audit("run not cancelled", run=run_id, why=why)
            raise NotAllowed(why)
        asking.audit("run cancelled", run=run_id)
        asking.may_take_long()
        await asking.work(fleet.cancel, run_id)
        return self._answer({"cancelled": run_id})


def _fleet(asking: Asking) -> AnyFleet:
    found = asking.store.node.fleet
    if found is None:
        raise InvalidOption(_NO_CLUSTER)
    return found


def _why_not(asking: Asking, fleet: AnyFleet) -> str:
    """Return why who asks begins no runs here; "" when they may."""
    if not fleet.allowed():
        return "this cluster runs no commands: that is allowed when it is started, with `eau2 up --allow-exec`"
    return _why_not_output(asking, "starts runs")


def _why_not_output(asking: Asking, what: str = "sees what runs write, as that may hold secrets") -> str:
    if not asking.has_tokens:  # whoever reaches the port would run things as another user of this machine
        return f"this server has no tokens, and only an admin's token {what}: `eau2 serve --token-file`"
    return "" if asking.role == "admin" else f"only a token of an admin {what}"


def _written(fleet: AnyFleet, run_id: str, node: str, starts: tuple[int, int]) -> Document | None:
    found = fleet.written(run_id, fleet.names([node])[0], starts)
    return None if found is None else output(found)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES_MAX:
            raise ValueTooLarge(f"a run is asked for in at most {_BODY_BYTES_MAX:,} bytes")
    return bytes(body)


def json_of(body: bytes) -> object:
    """Return what `body` is as JSON. InvalidValue."""
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidValue("a run is asked for as JSON", hint='{"script": "uptime"}') from None
    return found
