"""A cluster of four nodes on Ray under load, a server of it with the page, and browsers that watch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from tests.cli.test_doors import serving
from tests.monitor.browser import Browser
from tests.on_ray.processes import node_process
from tests.on_ray.soak import typed
from tests.until import SECONDS_MAX, until

from eau2.remote import launch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ, ADMIN = "a token that only reads", "a token that may do all"
NODES = [f"node-{number}" for number in range(4)]
LONG = "with recursive r as (select 1 as n union all select n + 1 from r where n < 9000000) select count(*) as n from r"
# Every state that each node was shown in, in order: some last for a second.
_RECORD = """
window.shown = {};
new MutationObserver(() => {
  for (const line of document.querySelectorAll("table.nodes tbody tr")) {
    const name = line.querySelector("a").textContent, seen = (window.shown[name] ??= []);
    const told = `${line.dataset.state}: ${line.querySelector("th").innerText.replace(/\\s+/g, " ")}`;
    if (seen.at(-1) !== told) seen.push(told);
  }
}).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
"""


class Watched:
    """What is there: `doors` of the server, `machines` of the cluster."""

    def __init__(self, home: Path, doors: dict[str, Any], server: int) -> None:
        self.home, self.doors, self.server = home, doors, server
        self.machines = launch.find()

    @property
    def page(self) -> str:
        host, port = self.doors["http"]
        return f"http://{host}:{port}/monitor/"

    @property
    def store(self) -> str:
        host, port = self.doors["flight"]
        return f"eau2://{host}:{port}"

    def process(self, node: str) -> int:
        return until(lambda: node_process(self.machines, node))

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)


class Tab(Browser):
    """A browser that has the page open."""

    def __init__(self, watched: Watched, folder: Path, token: str = ADMIN) -> None:
        super().__init__(folder)
        self._watched, self._token = watched, token
        self.tell("Page.addScriptToEvaluateOnNewDocument", source=_RECORD)

    def enter(self) -> None:
        """Open the page, and enter the token as one does."""
        self.tell("Page.navigate", url=self._watched.page)
        until(lambda: self.run("document.getElementById('door')?.open"))
        self.run(f"document.getElementById('token').value = {self._token!r}")
        self.run("document.querySelector('#door button').click()")
        until(lambda: self.run("!document.getElementById('door').open"))

    def go(self, view: str, *given: str) -> None:
        self.run(f"location.hash = {'/'.join(['#', view, *(quote(each, safe='') for each in given)])!r}")

    def states(self) -> dict[str, str]:
        """Return what state each node is shown in."""
        script = "Object.fromEntries([...document.querySelectorAll('table.nodes tbody tr')].map("
        script += "line => [line.querySelector('a').textContent, line.dataset.state]))"
        found: dict[str, str] = self.run(script)
        return found

    def shown(self, node: str) -> list[str]:
        """Return every state that the node was shown in, with what was said of it."""
        found: list[str] = self.run(f"window.shown[{node!r}] ?? []")
        return found

    def facts(self) -> dict[str, str]:
        """Return the figures of all together."""
        script = "Object.fromEntries([...document.querySelectorAll('.fact')].map(each => "
        script += "[each.querySelector('dt').innerText, each.querySelector('dd').innerText]))"
        found: dict[str, str] = self.run(script)
        return found

    def click(self, selector: str, text: str) -> None:
        """Click what has that text, once it is there."""
        script = f"[...document.querySelectorAll({selector!r})].find(one => one.innerText.trim() === {text!r})"
        until(lambda: self.run(f"!!{script}"))
        self.run(f"{script}.click()")

    def script(self, text: str) -> None:
        """Run a script by the form of the Runs view."""
        field = "document.querySelector('textarea[name=script]')"
        until(lambda: self.run(f"!!{field}?.checkVisibility()"))
        self.run(f"{field}.value = {json.dumps(text)}")
        self.click("form.run button", "Run")
        until(lambda: self.run("location.hash").startswith("#/run/"))

    def strangers(self) -> set[str]:
        """Return whoever was asked that is not the server of the page."""
        own = urlsplit(self._watched.page).netloc
        others = {url for url in self.asked if urlsplit(url).netloc != own}
        return others - {"about:blank"}


def end(process: subprocess.Popen[Any]) -> None:
    """Have a process end: what it waits for may take long, as a query of a cluster that is gone."""
    process.terminate()
    try:
        process.wait(SECONDS_MAX / 4)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(SECONDS_MAX)


def read_on(stream: IO[str]) -> None:
    """Read what a server says, so that it never waits to be heard."""
    with contextlib.suppress(ValueError):  # it was closed
        for _ in stream:
            pass


@contextlib.contextmanager
def watching(home: Path) -> Iterator[Watched]:
    """Start all of it; end it."""
    tokens = home / "tokens"
    tokens.write_text(f"read {READ}\nadmin {ADMIN}\n")
    tokens.chmod(0o600)
    with contextlib.ExitStack() as stack:
        stack.callback(launch.down)
        json.loads(typed("up", "--nodes", str(len(NODES)), "--data-dir", str(home / "data"), "--allow-exec"))
        command = [sys.executable, "-m", "tests.on_ray.traffic", "ray:"]
        out = stack.enter_context((home / "traffic.txt").open("w"))
        load = stack.enter_context(subprocess.Popen(command, stdout=out, stderr=out))
        stack.callback(end, load)
        until(lambda: load.poll() is not None or "ready\n" in (home / "traffic.txt").read_text())
        server, said = stack.enter_context(serving("ray:", "--page", "--token-file", str(tokens)))
        threading.Thread(target=read_on, args=(server.stderr,), daemon=True).start()
        yield Watched(home, said["doors"], server.pid)
