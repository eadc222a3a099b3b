"""Which of several servers of a store looks for alerts: a key that says who, and until when."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

from eau2.errors import KeyExists, KeyMissing, VersionConflict

if TYPE_CHECKING:
    from eau2.store.store import Store

KEY = "eau2/metrics/server"


class Duty:
    """The duty of one server, which has it as long as it asks again in time. For one thread.

    Whoever has it writes so under KEY, with an end some seconds later; who finds that end passed takes over. The clocks
    of servers may differ: then it is taken over that much earlier or later, and for one round both may have it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = uuid.uuid4().hex

    def has(self, now: float, seconds: float) -> bool:
        """Take the duty for so long if nobody has it, or keep it; return whether we have it. Raises as
        `Store.update`."""
        mine = json.dumps({"server": self._name, "until": now + seconds}).encode()
        try:
            version = self._store.version(KEY)
            name, until = _said(self._store.get(KEY))
            if name != self._name and until > now:
                return False
            self._store.update(KEY, mine, if_version=version)
        except KeyMissing:
            try:
                self._store.create(KEY, mine)
            except KeyExists:
                return False
        except VersionConflict:
            return False
        return True

    def end(self) -> None:
        """Let another have it at once. Raises as `Store.delete`."""
        try:
            version = self._store.version(KEY)
            if _said(self._store.get(KEY))[0] == self._name:
                self._store.delete(KEY, if_version=version)
        except (KeyMissing, VersionConflict):
            return


def _said(value: object) -> tuple[str, float]:
    """Return who has it until when; what is not ours to read counts as over."""
    try:
        found = json.loads(value if isinstance(value, bytes) else b"")
        return str(found["server"]), float(found["until"])
    except (ValueError, TypeError, KeyError):
        return "", 0.0
