"""Hosts made of network namespaces: each has an address, a link that can be cut, half-cut, slowed and made to lose, and
a raylet. What runs on one sees another boot of another machine, so that chunks travel over the links.

All of it is in namespaces, the switch too: when these are removed nothing is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.until import SECONDS_MAX, until

from eau2.remote.raylets import _HEALTH_CHECKS, LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 6379
_NETWORK = "10.86.20"  # of the hosts: nothing outside of the namespaces sees it
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_AS_ANOTHER_MACHINE = f'mount --bind "$0" {_BOOT_ID} && exec "$@"'  # in a mount namespace of its own


def run(*command: object, **options) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=SECONDS_MAX, **options
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))} came to {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def why_not() -> str:
    """Return "", or why this machine cannot have such hosts."""
    if shutil.which("ip") is None:
        return "there is no program `ip` (iproute2)"
    name = f"eau2-try-{secrets.token_hex(3)}"
    try:
        run("ip", "netns", "add", name)
    except OSError as error:
        return f"no right to make network namespaces: {error}"
    try:
        run("ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
        run("ip", "netns", "exec", name, "sh", "-c", _AS_ANOTHER_MACHINE, _BOOT_ID, "true")
    except OSError as error:
        return f"no right for what hosts need: {error}"
    finally:
        run("ip", "netns", "del", name)
    return ""


class Hosts:
    """`count` of them; the first has the head, and `started` have a raylet, or all. A context manager: at the end
    nothing is left of them, but what they stored."""

    def __init__(self, count: int, checks: dict[str, str] = _HEALTH_CHECKS, *, started: int | None = None):
        self._started = started
        self.names = [f"host-{number}" for number in range(count)]
        self._tag = f"eau2-{secrets.token_hex(3)}"
        self._folder = Path(tempfile.mkdtemp(prefix="eau2-", dir="/tmp"))  # of sockets, whose paths have 107 bytes
        self._checks = {f"RAY_health_check_{name}": value for name, value in checks.items()}
        self._switch = f"{self._tag}-switch"
        self._switching: subprocess.Popen[str] | None = None
        self._rules: dict[str, tuple[float, float]] = {}
        (self._folder / "token").write_text(secrets.token_hex(32))

    @property
    def head(self) -> str:
        return f"{self.address('host-0')}:{PORT}"

    @property
    def store(self) -> str:
        """What `eau2.open` takes on any of them."""
        return f"ray:{self.head}"

    def address(self, host: str) -> str:
        return f"{_NETWORK}.{1 + self.names.index(host)}"

    def __enter__(self) -> Hosts:
        try:
            run("ip", "netns", "add", self._switch)
            for host in self.names:
                link = ("link", "add", host, "type", "veth", "peer", "name", f"to-{host}")
                run("ip", "-n", self._switch, *link)
                run("ip", "-n", self._switch, "link", "set", host, "up")
            self._switching = self._start_switch()
            for host in self.names:
                self._make(host)
            self.start_raylets(self.names[:1])
            self.start_raylets(self.names[1 : self._started])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _namespace(self, host: str) -> str:
        return f"{self._tag}-{host}"

    def _start_switch(self) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self._switch, sys.executable, "-m", "tests.on_ray.switch", *self.names]
        switch = subprocess.Popen(
            command, env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert switch.stdout.readline() == "ready\n"
        return switch

    def _make(self, host: str) -> None:
        namespace = self._namespace(host)
        run("ip", "netns", "add", namespace)
        run("ip", "-n", self._switch, "link", "set", f"to-{host}", "netns", namespace, "name", "eth0")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", namespace, "route", "add", "default", "dev", "eth0")  # Ray looks which address leads out
        (self._folder / f"{host}.boot").write_text(f"{uuid.uuid4()}\n")

    def own(self, host: str) -> dict[str, str]:
        """Return the variables with which `host` knows nothing of what the others are in, and leaves nothing."""
        return {"EAU2_HOME": f"{self._folder}/{host}-home", "TMPDIR": str(self._folder)}

    def close(self) -> None:
        if self._switching is not None:
            self._switching.kill()
            self._switching.communicate()
        for host in self.names:
            with contextlib.suppress(OSError):
                until(lambda: not self._end(host))  # noqa: B023
        for namespace in [*map(self._namespace, self.names), self._switch]:
            with contextlib.suppress(OSError):
                run("ip", "netns", "del", namespace)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- what runs there ----------------------------------------------------------------------------------------------

    def kill(self, host: str) -> None:
        """Have nothing run on `host`, as when its power is gone."""
        until(lambda: not self._end(host))

    def processes(self, host: str) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self._namespace(host)).split()]

    def _end(self, host: str) -> list[int]:
        found = self.processes(host)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found

    def command(self, host: str, *words: object) -> list[str]:
        """Return the command that does `words` on `host`."""
        there = ["ip", "netns", "exec", self._namespace(host), "sh", "-c", _AS_ANOTHER_MACHINE]
        return [*there, f"{self._folder}/{host}.boot", *map(str, words)]

    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = os.pathsep.join(os.path.abspath(one) for one in sys.path if one)
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{self._folder}/token"}
        return own | self._checks | token | {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}

    def raylet(self, host: str) -> int | None:
        for pid in self.processes(host):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0].endswith(b"/raylet"):
                    return pid
        return None

    def start_raylets(self, hosts: Sequence[str]) -> None:
        """Have the raylets of `hosts` run, as who supervises machines does: Ray gives up when it takes long."""
        deadline = time.monotonic() + 5 * SECONDS_MAX
        while missing := [host for host in hosts if self.raylet(host) is None]:
            starting = {}
            for host in missing:
                with (self._folder / f"{host}.txt").open("ab") as out:
                    starting[host] = subprocess.Popen(
                        self._raylet_command(host),
                        env=self.environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    )  # fmt: skip
            for host, started in starting.items():
                done = started.wait(2 * SECONDS_MAX) == 0
                assert done or time.monotonic() < deadline, (self._folder / f"{host}.txt").read_text()

    def _raylet_command(self, host: str) -> list[str]:
        here = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        there = [f"--address={self.head}"]
        return self.command(
            host,
            *(Path(sys.executable).with_name("ray"), "start", *(here if host == self.names[0] else there)),
            *(f"--node-ip-address={self.address(host)}", f"--labels={LABEL}={host}"),
            *(f"--temp-dir={self._folder}/{host}", "--num-cpus=2", f"--object-store-memory={100 << 20}"),
        )

    def start(self, host: str, *words: object, out: Path) -> subprocess.Popen[bytes]:
        """Have `python *words` run on `host`; it prints to `out`."""
        with out.open("wb") as file:
            return subprocess.Popen(
                self.command(host, sys.executable, *words),
                env=self.environment() | self.own(host),
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    def said(self, host: str, *words: object, timeout_seconds: float = 300.0) -> str:
        """Run `python *words` on `host`; return what it prints."""
        done = self.done(host, *words, timeout_seconds=timeout_seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def done(self, host: str, *words: object, timeout_seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run `python *words` on `host`; return what came of it."""
        return subprocess.run(
            self.command(host, sys.executable, *words),
            env=self.environment() | self.own(host),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_seconds,
        )  # fmt: skip

    def deployed(self, data: Path) -> bool:
        """Deploy eau2 over the directories in `data`, or wait until it is whole; return whether it is. It may not be in
        time where much else runs."""
        with contextlib.suppress(AssertionError):
            self.said("host-0", "-m", "eau2.cli", "deploy", "--address", self.head, "--data-dir", data)
            return True
        return False

    # -- links --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def shaped(self, hosts: Sequence[str], *, ways=("to", "from"), loss: float = 0.0, delay_seconds: float = 0.0):
        """Frames to `hosts`, or from them, are lost or late meanwhile."""
        before = self._rules
        self._tell(before | {f"{host} {way}": (loss, delay_seconds) for host in hosts for way in ways})
        try:
            yield
        finally:
            self._tell(before)

    def _tell(self, rules: dict[str, tuple[float, float]]) -> None:
        self._rules = rules
        self._switching.stdin.write(json.dumps(rules) + "\n")
        self._switching.stdin.flush()
        assert self._switching.stdout.readline() == "done\n"
