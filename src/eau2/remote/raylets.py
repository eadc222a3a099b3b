"""A Ray cluster on this machine: several raylets on its loopback interface, started and ended without touching others.
Or this machine's part of one that others have, which it has joined: one raylet, on their network.

<home>/clusters/<name>/   cluster.json: what is running; token: who has it may connect. For its owner only
<temporary>/eau2-*/       Ray's sockets, logs and spilled objects, a folder a node; gone when the cluster is ended

Processes are found by where they were started, not by a list of ids that the next one may not have been written to:
they inherit a variable, and a working directory in <temporary>, as Ray overwrites the variables of some.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eau2.errors import ClusterUnavailable, Corrupt, failed_call
from eau2.machine import cores
from eau2.remote.identity import remove_semaphores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.store.database import Flush

LABEL = "eau2-machine"  # of a raylet: the same whenever it is started, as Ray's own ids are not
OBJECT_STORE_BYTES = 200 << 20  # of a raylet; what does not fit is spilled
_STATE, _LOG = "cluster.json", "launch.log"
_MARK = "EAU2_CLUSTER"
BROUGHT = "EAU2_BROUGHT"  # the variable that says who brought a machine in
_LOOPBACK = "127.0.0.1"
_HEAD, _RAYLET = "gcs_server", "raylet"  # the programs
_TEMPORARY_CHARACTERS_MAX = 20  # sockets lie 86 below it, and their paths have 107 at most
_LOOK_SECONDS = 0.05
_STARTED_SECONDS_MAX = 60.0  # a raylet takes 3 s here
_REST_SECONDS = 15.0
_ENDED_SECONDS, _KILLED_SECONDS = 3.0, 10.0
_LOG_CHARACTERS_MAX = 2000
_NETWORK_HINT = "do this machine and the others reach each other, on all ports?"

# Ray takes a killed machine for dead after 14 s and a frozen one after 63 s; so it is 3 s and 9 s.
_HEALTH_CHECKS = {"initial_delay_ms": "0", "period_ms": "1000", "timeout_ms": "2000", "failure_threshold": "3"}

# No ports that are found in all clusters, and nothing that eau2 does not use.
_OPTIONS: dict[str, object] = {"min_worker_port": 0, "max_worker_port": 0, "dashboard_agent_listen_port": 0}
_OPTIONS |= {"include_log_monitor": False, "no_monitor": True, "num_gpus": 0}


def _temporary() -> str:
    temporary = tempfile.gettempdir()
    return temporary if len(temporary) <= _TEMPORARY_CHARACTERS_MAX else "/tmp"


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A Ray cluster on this machine, as its file says."""

    directory: Path  # of the state
    machines: tuple[str, ...]  # the first has the head
    data_directory: Path
    replicas: int
    flush: Flush = "process"
    temporary: str = field(default_factory=_temporary)  # where Ray's files are, below
    address: str = ""  # of the head; "" while it is being started
    allow_exec: bool = False
    host: str = ""  # of a machine that joined others: its address on their network. The head is theirs
    token: str = ""  # likewise: the path of Ray's token
    brought: str = ""  # likewise: who brought it in

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def token_path(self) -> Path:
        return Path(self.token) if self.token else self.directory / "token"

    @property
    def folder(self) -> Path:
        """Ray's files."""
        return Path(self.temporary) / f"eau2-{hashlib.sha256(bytes(self.directory)).hexdigest()[:12]}"

    # -- what runs ----------------------------------------------------------------------------------------------------

    def processes(self, program: str = "") -> list[int]:
        """Return the ids of all processes that were started for this cluster, by whomever; or of those that run
        `program`. 10 ms."""
        found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in found if (not program or _program(pid) == program) and self._has(pid)]

    def _has(self, pid: int) -> bool:
        if pid == os.getpid():
            return False
        with contextlib.suppress(OSError):
            if f"\0{_MARK}={self.directory}\0".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                return True
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{pid}/cwd").startswith(f"{self.folder}/")
        return False

    @property
    def runs(self) -> bool:
        """Whether the head runs, without which nothing does for long; where that is elsewhere, our raylet."""
        return bool(self.processes(_RAYLET if self.host else _HEAD))

    def raylet(self, machine: str) -> int | None:
        """Return the process id of the raylet of `machine`, if it runs."""
        sockets = f"{self.folder / machine}/".encode()
        return next((pid for pid in self.processes(_RAYLET) if sockets in _command(pid)), None)

    def environment(self) -> dict[str, str]:
        """Return the variables with which a process of this machine connects."""
        found = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        # Without this Ray makes 127.0.0.1 an address that the network sees.
        return found if self.host else found | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

    # -- starting and ending ------------------------------------------------------------------------------------------

    def start(self, machines: Sequence[str]) -> LocalCluster:
        """Start the raylets of `machines`, and the head where there is no address yet. About 3 s, and 3 s for the head.

        Returns the cluster with its address. ClusterUnavailable says why Ray did not start; some may be running then.
        """
        if not self.address:
            (address,) = self._launched(machines[:1])
            return replace(self, address=address).start(machines[1:])
        self._launched(machines)
        return self

    def _launched(self, machines: Sequence[str]) -> list[str]:
        """Have a process start the raylet of each of `machines`, all at once; return the address that each says."""
        launchers: list[subprocess.Popen[bytes]] = []
        try:
            launchers += [self._launch(machine) for machine in machines]
            deadline = time.monotonic() + _STARTED_SECONDS_MAX
            for launcher in launchers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    launcher.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for launcher in launchers:
                launcher.kill()
                launcher.wait()
        said = [(self.folder / machine / _LOG).read_text(errors="replace").strip() for machine in machines]
        for machine, launcher, text in zip(machines, launchers, said, strict=True):
            if launcher.returncode != 0:
                raise ClusterUnavailable(
                    f"Ray did not start for {machine}: {text[-_LOG_CHARACTERS_MAX:] or 'it did not say why'}",
                    hint=_NETWORK_HINT
                    if self.host
                    else f"its logs are in {self.folder / machine}; `eau2 down` ends what is running",
                )
        return [text.rpartition("\n")[2] for text in said]

    def _launch(self, machine: str) -> subprocess.Popen[bytes]:
        folder = self.folder / machine
        folder.mkdir(exist_ok=True)
        raylet = _OPTIONS | {
            "node_ip_address": self.host or _LOOPBACK,
            "node_name": machine,
            "temp_dir": str(folder),
            "labels": {LABEL: machine},
            "num_cpus": max(1, cores() // len(self.machines)),
            "object_store_memory": None if self.host else OBJECT_STORE_BYTES,  # of its own machine Ray takes a share
        }
        with (folder / _LOG).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "eau2.remote.ray", json.dumps({"address": self.address, "raylet": raylet})],
                env=self._environment_of_raylets(),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, and nothing ends with the terminal
            )

    def _environment_of_raylets(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        if "PYTHONPATH" in own:  # they are started elsewhere
            own["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, own["PYTHONPATH"].split(os.pathsep)))
        checks = {f"RAY_health_check_{name}": value for name, value in _HEALTH_CHECKS.items()}
        return own | self.environment() | checks | {_MARK: str(self.directory), BROUGHT: self.brought}

    def rest(self) -> None:
        """Have the nodes close their files, if they can within some seconds: they open faster the next time. Of a
        cluster that was joined only ours."""
        if self.address and self.runs:
            ours = self.machines if self.host else ()
            environment = os.environ | self.environment() | {"RAY_ADDRESS": self.address}
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [sys.executable, "-m", "eau2.remote.deploying", f"ray:{self.name}", *ours],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=_REST_SECONDS,
                    check=False,
                )

    def end(self) -> int:
        """End all processes of the cluster and remove Ray's files; what is stored stays. Return how many there were.

        Raylets first, so that they start no workers, then the rest, the head last. Who is frozen, or takes longer than
        3 s, is killed. ClusterUnavailable when that does not end it.
        """
        all_of_them = self.processes()
        heads = set(self.processes(_HEAD))
        self._end(self.processes(_RAYLET))
        self._end([pid for pid in self.processes() if pid not in heads])
        self._end(self.processes(_HEAD))
        deadline = time.monotonic() + _KILLED_SECONDS
        while left := self.processes():
            if time.monotonic() > deadline:
                raise ClusterUnavailable(f"the processes {left} of {self.name!r} cannot be ended", hint="try again")
            self._signal(left, signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)
        for pid in all_of_them:
            remove_semaphores(pid)
        shutil.rmtree(self.folder, ignore_errors=True)
        return len(all_of_them)

    def _end(self, pids: Sequence[int]) -> None:
        """Ask `pids` to end, and kill those that do not within 3 s."""
        self._signal(pids, signal.SIGTERM)
        deadline = time.monotonic() + _ENDED_SECONDS
        while left := [pid for pid in pids if self._has(pid)]:
            if time.monotonic() > deadline:
                self._signal(left, signal.SIGKILL)
                return
            time.sleep(_LOOK_SECONDS)

    def _signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                opened = os.pidfd_open(pid)
                try:
                    if self._has(pid):  # and not another that was given its number meanwhile
                        signal.pidfd_send_signal(opened, number)
                finally:
                    os.close(opened)

    # -- as a file ----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write it down, for its owner only."""
        document = {
            "machines": self.machines,
            "data_directory": str(self.data_directory),
            "replicas": self.replicas,
            "flush": self.flush,
            "temporary": self.temporary,
            "address": self.address,
            "allow_exec": self.allow_exec,
            "host": self.host,
            "token": self.token,
            "brought": self.brought,
        }
        write_own(self.directory / _STATE, json.dumps(document))

    def forget(self) -> None:
        """Have no file of it, as if it had never been."""
        (self.directory / _STATE).unlink(missing_ok=True)

    @classmethod
    def read(cls, directory: Path) -> LocalCluster | None:
        """Return what was written last in `directory`; None when nothing was. Corrupt."""
        path = directory / _STATE
        try:
            found = json.loads(path.read_bytes())
            found |= {"directory": directory, "machines": tuple(found["machines"])}
            return cls(**found | {"data_directory": Path(found["data_directory"])})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed_call(error, path) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{path} is damaged", hint="remove it; `eau2 down` works without it") from error


def running() -> set[Path]:
    """Return the directories of all clusters of this user that have a process on this machine. 10 ms."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it is another user's, or has ended
            for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if variable.startswith(f"{_MARK}=".encode()):
                    found.add(Path(os.fsdecode(variable.partition(b"=")[2])))
    return found


def own_directory(path: Path) -> None:
    """Have the directory `path`, for its owner only."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)  # PermissionError where another user has made it
    except OSError as error:
        raise failed_call(error, path) from error


def write_own(path: Path, text: str) -> None:
    """Replace the file `path`, for its owner only."""
    new = path.with_name(f"{path.name}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        raise failed_call(error, path) from error


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _program(pid: int) -> str:
    return os.fsdecode(_command(pid).split(b"\0", 1)[0]).rpartition("/")[2]
