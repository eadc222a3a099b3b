"""The store as a program sees it: the same, but its verbs end when the run has failed on another node."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from eau2.errors import WaitTimeout
from eau2.store.arguments import checked_seconds

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from eau2.frame.frame import Frame
    from eau2.store.store import Store

_LOOK_SECONDS = 0.1  # between two looks, within a wait, whether the run has failed


class ProgramStore:
    """Stands for `store`: all that it has, each call of a verb made within `calls`.

    Not a Store, but made of one: a verb that the Store gets needs nothing here.
    """

    def __init__(self, store: Store, calls: AbstractContextManager[object]) -> None:
        self._store = store
        self._calls = calls

    def __repr__(self) -> str:
        return repr(self._store)

    def __dir__(self) -> list[str]:
        return dir(self._store)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def verb(*arguments: Any, **options: Any) -> Any:
            with self._calls:
                return found(*arguments, **options)

        return verb

    def wait(self, key: str, *, timeout_seconds: float = 60.0) -> bytes | Frame:
        """As Store.wait."""
        deadline = time.monotonic() + checked_seconds(timeout_seconds)
        while True:
            left = max(0.0, deadline - time.monotonic())
            with self._calls:
                try:
                    return self._store.wait(key, timeout_seconds=min(left, _LOOK_SECONDS))
                except WaitTimeout as error:
                    if left > _LOOK_SECONDS:
                        continue
                    sentence = f"nothing was put under {key!r} within {timeout_seconds:g} seconds"
                    raise WaitTimeout(sentence, hint=error.hint) from None
