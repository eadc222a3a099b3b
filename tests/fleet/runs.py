"""Runs for tests, and who listens to them."""

from __future__ import annotations

import threading
import time

from tests.until import SECONDS_MAX

from eau2.fleet.run import Command, Ended, Output, Run, new_id


def a_run(*command, work=None, deadline_seconds=None, run_time=None):
    now = time.time() if run_time is None else run_time
    return Run(new_id(now), now, "ann", "desk", work or Command(command), 1, deadline_seconds)


class Heard:
    """What was said, and what came of it."""

    def __init__(self):
        self.said = []
        self._ended = threading.Event()

    def __call__(self, said):
        self.said.append(said)
        if isinstance(said, Ended):
            self._ended.set()

    def ended(self):
        assert self._ended.wait(SECONDS_MAX)
        return next(said for said in self.said if isinstance(said, Ended))

    def written(self, stream="out"):
        return b"".join(said.data for said in self.said if isinstance(said, Output) and said.stream == stream)
