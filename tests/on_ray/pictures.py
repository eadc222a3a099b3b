"""Takes the pictures of docs/page.md, of four nodes on Ray that work, one of which does not respond for a while.

python -m tests.on_ray.pictures [--minutes 10] [--folder docs/images]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.on_ray.soak import typed
from tests.on_ray.traffic import ASKED
from tests.on_ray.watched import ADMIN, NODES, Tab, Watched, watching
from tests.until import until

import eau2
from eau2.errors import Eau2Error

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES_MAX = 150_000
WIDE, PHONE = (1280, 800), (390, 844)
LONG = """select a.zone, count(*) as pairs, avg(b.fare - a.fare) as dearer
from "trips/2026-10" a join "trips/2026-11" b on a.zone = b.zone and a.fare < b.fare group by a.zone"""
SCRIPT = """df -h --output=size,avail,pcent "$PWD" | tail -1
uptime
test "$EAU2_NODE" != node-2 || { echo "its clock is not synchronized" >&2; exit 3; }"""


class Album:
    """Pictures in `folder`."""

    def __init__(self, folder: Path, tab: Tab) -> None:
        self._folder, self._tab = folder, tab

    def take(self, name: str) -> None:
        self._tab.run("document.activeElement.blur()")
        data = self._tab.picture()
        (self._folder / f"page-{name}.png").write_bytes(data)
        print(f"page-{name}.png: {len(data):,} bytes{' TOO MANY' if len(data) > BYTES_MAX else ''}", flush=True)


@contextlib.contextmanager
def said_at_failure(tab: Tab) -> Iterator[None]:
    """Print what the page says when it is not what was waited for."""
    try:
        yield
    except AssertionError:
        print(tab.text(), tab.faults, sep="\n")
        raise


def all_live(tab: Tab) -> bool:
    return set(tab.states().values()) == {"live"} and len(tab.states()) == len(NODES)


def not_responding(watched: Watched, tab: Tab, album: Album) -> None:
    """A node that is frozen is suspected for a second, and dead then."""
    while True:
        pid = watched.process("node-2")
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: not all_live(tab))
            if tab.states()["node-2"] == "suspected":
                album.take("suspected")
                return
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: all_live(tab))


def lost(watched: Watched, tab: Tab, album: Album) -> None:
    """A machine is lost, and what it had is copied among the others."""
    watched.kill(watched.machines.raylet("node-3"))
    until(lambda: tab.facts()["Nodes"] == "3 live" and tab.facts()["Copies"] != "all there")
    until(lambda: tab.facts()["Copies"] == "all there")
    album.take("nodes")
    tab.look_like(*PHONE, dark=True, phone=True, scale=1.5)
    until(lambda: tab.run("innerWidth") == PHONE[0])
    album.take("phone")
    tab.look_like(*WIDE)
    assert json.loads(typed("up"))["started"] == ["node-3"]
    until(lambda: all_live(tab))


def queries(watched: Watched, tab: Tab, album: Album) -> None:
    with eau2.open(watched.store, token=ADMIN) as store:
        for asked in ASKED:
            store.sql(asked).to_arrow()

        def ask() -> None:
            with contextlib.suppress(Eau2Error):
                store.sql(LONG).to_arrow()

        client = threading.Thread(target=ask)
        client.start()
        tab.go("queries")
        until(lambda: "dearer" in tab.text() and "for 5" in tab.text())
        album.take("queries")
        tab.click("button.cancel", "Cancel")
        client.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.on_ray.pictures")
    parser.add_argument("--minutes", type=float, default=10.0, help="that are watched before")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["EAU2_HOME"] = str(home / "home")
        with watching(home) as watched, Tab(watched, home / "profile") as tab, said_at_failure(tab):
            tab.look_like(*WIDE)
            tab.enter()
            album = Album(given.folder, tab)
            time.sleep(60 * given.minutes)  # the charts are of this time
            until(lambda: all_live(tab))
            tab.go("runs")
            tab.script(SCRIPT)
            until(lambda: tab.text().count("ended with") >= 2 * len(NODES))
            tab.run("document.querySelector('section[aria-label=\"Each node\"]').scrollIntoView()")
            tab.run("scrollBy(0, -70)")  # from below the head of the page
            album.take("run")
            tab.go("runs")
            until(lambda: "ended with 3" in tab.text())
            album.take("runs")
            tab.go("frame", "trips/2026-11")
            until(lambda: "Where its chunks are" in tab.text())
            album.take("frame")
            tab.go("")
            until(lambda: all_live(tab))
            not_responding(watched, tab, album)
            until(lambda: all_live(tab))
            lost(watched, tab, album)
            queries(watched, tab, album)  # last: a step of that join goes on for long after it was cancelled


if __name__ == "__main__":
    main()
