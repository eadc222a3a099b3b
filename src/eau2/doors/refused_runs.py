"""Runs that a door refuses because of a role: in the server's log, and in the journals of some nodes."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from eau2.doors.log import log
from eau2.errors import Eau2Error
from eau2.fleet.refusals import Refusal
from eau2.fleet.run import new_id
from eau2.monitor.runs import came_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.store.store import Store

WAITING_MAX = 16  # of what comes faster than nodes are told, only the log knows


class RefusedRuns:
    """Notes them. Thread-safe, and never waits: nodes are told by one thread, so that who is refused cannot keep them
    busy."""

    def __init__(self, store: Store, audit: Callable[..., None]) -> None:
        self._store, self._audit = store, audit
        self._lock = threading.Lock()  # guards both below
        self._waiting: deque[Refusal] = deque()
        self._telling = False

    def note(
        self,
        client: str,
        host: str,
        role: str,
        why: str,
        *,
        door: str = "the page",
        who: str = "",
        kind: str = "",
        text: str = "",
    ) -> None:
        """A run that `client` of `host` has asked for, with a token of `role`, was refused. who: it says it is."""
        self._audit("run refused", client, role=role, why=why)
        now = time.time()
        refusal = Refusal(new_id(now), now, who or role, came_by(door, host), kind, text, why)
        with self._lock:
            if self._store.node.fleet is None or len(self._waiting) >= WAITING_MAX:
                return
            self._waiting.append(refusal)
            if not self._telling:
                self._telling = True
                threading.Thread(target=self._tell, name="eau2-refused", daemon=True).start()

    def _tell(self) -> None:
        while True:
            with self._lock:
                fleet = self._store.node.fleet
                if not self._waiting or fleet is None:
                    self._telling = False
                    return
                refusal = self._waiting.popleft()
            try:
                fleet.refuse(refusal)
            except Eau2Error as error:
                log("failed", error=str(error))
