"""A browser without a window, driven through a pipe by the protocol of its developer tools."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from typing import Any

from tests.until import SECONDS_MAX, until

CHROMIUM = shutil.which("chromium")
_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --no-pings --remote-debugging-pipe"
)
_ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"  # it asks its maker things of its own


class Browser:
    """One tab. A context manager."""

    def __init__(self, folder: Any) -> None:
        told, ours_out = _high_pipe()
        ours_in, said = _high_pipe()

        def as_it_wants() -> None:
            os.dup2(told, 3)
            os.dup2(said, 4)

        self._process = subprocess.Popen(
            [str(CHROMIUM), *_OPTIONS.split(), _ONLY_HERE, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=as_it_wants,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(told)
        os.close(said)
        self._in, self._out, self._pending, self._number = ours_in, ours_out, b"", 0
        self._session = ""
        self.asked: set[str] = set()  # addresses that the page has asked
        pages = until(lambda: [each for each in self._targets() if each["type"] == "page"])
        attached = self.tell("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.faults: list[str] = []  # errors that the page has, or that the browser has with it
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)  # which ends it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(SECONDS_MAX)
        os.close(self._in)

    def tell(self, method: str, **parameters: Any) -> Any:
        """Return what the browser answers to one command."""
        self._number += 1
        said = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            said["sessionId"] = self._session
        os.write(self._out, json.dumps(said).encode() + b"\0")
        while True:
            message = self._next()
            self._note(message.get("method"), message.get("params", {}))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def run(self, script: str) -> Any:
        """Return what an expression of JavaScript is in the page."""
        answer = self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _note(self, method: str | None, given: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.asked.add(given["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.faults.append(str(given["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.faults.append(str(given["args"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.faults.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")

    def look_like(
        self, width: int, height: int, *, dark: bool = False, phone: bool = False, scale: float = 1.0
    ) -> None:
        """Be a window of so many pixels, by day or by night."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        self.tell("Emulation.setDeviceMetricsOverride", **sizes)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """Return what is seen in the window, as PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"])

    def text(self) -> str:
        return str(self.run("document.body?.innerText ?? ''"))

    def _targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.tell("Target.getTargets")["targetInfos"]
        return found

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


def _high_pipe() -> tuple[int, int]:
    """Return a pipe whose numbers are not 3 and 4, which the browser wants."""
    pipe = os.pipe()
    reading, writing = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 20) for each in pipe)
    for each in pipe:
        os.close(each)
    return reading, writing
