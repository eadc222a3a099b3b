"""Runs that a door refuses because of a role: in the server's log, and in the journals of some nodes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from eau2.doors.log import log
from eau2.errors import Eau2Error
from eau2.fleet.refusals import Refusal
from eau2.fleet.run import new_id
from eau2.monitor.runs import came_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.store.store import Store


class RefusedRuns:
    """Notes them. Thread-safe, and never waits: nodes are told by one thread, and of what comes meanwhile only the log
    knows, so that who is refused cannot keep the nodes busy."""

    def __init__(self, store: Store, audit: Callable[..., None]) -> None:
        self._store, self._audit = store, audit
        self._telling = threading.Lock()  # held while nodes are told

    def note(self, client: str, role: str, why: str, *, door: str = "the page", kind: str = "", text: str = "") -> None:
        """A run that `client` has asked for, with a token of `role`, was refused."""
        self._audit("run refused", client, role=role, why=why)
        fleet = self._store.node.fleet
        if fleet is None or not self._telling.acquire(blocking=False):
            return
        now = time.time()
        refusal = Refusal(new_id(now), now, role, came_by(door, client), kind, text, why)

        def tell() -> None:
            try:
                fleet.refuse(refusal)
            except Eau2Error as error:
                log("failed", error=str(error))
            finally:
                self._telling.release()

        threading.Thread(target=tell, name="eau2-refused", daemon=True).start()
