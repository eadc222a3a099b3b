"""What a driver sees of a node that fails: `python -m benchmarks.detection_watch ADDRESS NODE`, ended by a signal.

Prints a JSON list a line, [monotonic seconds, what, more]: "suspected" when a call to the node got no answer, "state"
when its state in the view changes, "whole" when the view says that all copies are there, or not; "ray" when Ray says
that the machine is alive, or not; "put" for each put, to a key of which the node is home, that was done, with when it
began.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time

import ray

import eau2
from eau2.cluster.peer import Unreachable
from eau2.errors import Eau2Error
from eau2.remote.deploying import _short_of_whole
from eau2.remote.raylets import LABEL

LOOK_SECONDS = 0.02
_printing = threading.Lock()


def say(what: str, more: object = None) -> None:
    with _printing:
        print(json.dumps([time.monotonic(), what, more]), flush=True)


def put(store: eau2.Store, node: str) -> None:
    """Put again and again what `node` is to order when it is live."""
    view = store.node.view  # of a cluster that is whole
    key = next(key for key in map(str, range(10_000)) if view.homes(key)[0] == node)
    while True:
        began = time.monotonic()
        with contextlib.suppress(Eau2Error):
            store.put(key, b"1")
            say("put", began)
        time.sleep(LOOK_SECONDS)


def look_at_views(store: eau2.Store, node: str) -> None:
    last: list[object] = [None, None]
    while True:
        with contextlib.suppress(Unreachable):
            view = store.node.transport.call("coordinator", "view", ((), {}), 2.0).result()
            for place, (what, now) in enumerate(
                (("state", view.state(node).name), ("whole", not _short_of_whole(view)))
            ):
                if last[place] != now:
                    say(what, now)
                    last[place] = now
        time.sleep(LOOK_SECONDS)


def look_at_ray(machine: str) -> None:
    last = None
    while True:
        alive = any(one["Alive"] and one["Labels"].get(LABEL) == machine for one in ray.nodes())
        if alive != last:
            say("ray", alive)
            last = alive
        time.sleep(LOOK_SECONDS)


def main() -> None:
    address, node = sys.argv[1:]
    store = eau2.open(address)
    client = store.node._client
    report = client._report

    async def reported(name: str) -> None:
        if name == node:
            say("suspected")
        await report(name)

    client._report = reported
    for work, arguments in ((put, (store, node)), (look_at_views, (store, node)), (look_at_ray, (node,))):
        threading.Thread(target=work, args=arguments, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
