"""Clusters of this machine by name: what each is to be, and having it run or not.

<home>/clusters/<name>/   see `raylets.py`; besides lock: held while the cluster is started or ended
<home>/data/<name>/       what is stored, a directory a node; stays, whatever ends
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption, StoreBusy, failed_call
from eau2.remote.raylets import LocalCluster, own_directory, running, write_own

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eau2.store.database import Flush
    from eau2.store.membership import WayIn

NAME = "eau2"
MACHINES_MAX = 64
_MACHINES, _REPLICAS = 4, 2
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,39}")
_LOCK_SECONDS = 2.0
_LOOK_SECONDS = 0.05


def find(name: str = NAME) -> LocalCluster | None:
    """Return the cluster `name` of this machine, whether it runs or not; None when it was never started."""
    return LocalCluster.read(_directory(name))


def all_of_them() -> list[LocalCluster]:
    """Return all clusters that were ever started on this machine, with this home."""
    clusters = _directory(NAME).parent
    names = [path.name for path in clusters.iterdir()] if clusters.is_dir() else []
    return [found for name in sorted(names) if _NAME.fullmatch(name) and (found := find(name)) is not None]


def home() -> Path:
    """Return the directory in which what is known of this machine's clusters is."""
    return _home(_directory(NAME))


def homes_that_run(name: str = NAME) -> list[Path]:
    """Return the other homes on this machine of which a cluster `name` runs, of this user: `down` looks in `home`."""
    own = _directory(name)
    return sorted(_home(each) for each in running() if each.name == name and each != own)


def up(
    name: str = NAME,
    *,
    machines: int | None = None,
    data_directory: str | os.PathLike[str] | None = None,
    replicas: int | None = None,
    flush: Flush | None = None,
    allow_exec: bool = False,
) -> tuple[LocalCluster, list[str]]:
    """Have the cluster `name` run; return it, and what had to be started: nothing when it was running.

    By default it is as it was the last time; at first it has four machines and keeps two copies. It may get more
    machines, and, when it does not run, another `flush`, or `replicas` where its data does not refuse that. Raylets
    that have died are started; when the head has, all is ended and started. `allow_exec` holds for as long as it runs:
    one that runs with it keeps it, and one that runs without does not get it. InvalidOption, StoreBusy,
    ClusterUnavailable.
    """
    directory = _directory(name)
    with _locked(directory):
        known = LocalCluster.read(directory)
        wanted = _wanted(known, directory, machines, data_directory, replicas)
        if wanted.address and not wanted.runs:
            wanted = replace(wanted, address="")
        if wanted.address:
            others = {"flush": (flush, wanted.flush), "replicas": (replicas, wanted.replicas)}
            _refuse_others(others | {"allow_exec": (allow_exec or None, wanted.allow_exec)}, name)
        else:
            wanted = replace(wanted, allow_exec=allow_exec)
        wanted = replace(wanted, flush=flush or wanted.flush, replicas=replicas or wanted.replicas)
        if not wanted.address:
            wanted.end()  # what an `up` that was killed has left
            own_directory(wanted.folder)
            write_own(wanted.token_path, secrets.token_hex(32))
        wanted.write()
        missing = [machine for machine in wanted.machines if wanted.raylet(machine) is None]
        if missing:
            wanted = wanted.start(missing)
            wanted.write()
        return wanted, missing


def down(name: str = NAME) -> int:
    """End the cluster `name`, or this machine's part of it where it has joined one; return how many processes there
    were. It can be started again, or joined. StoreBusy, ClusterUnavailable."""
    directory = _directory(name)
    with _locked(directory):
        known = LocalCluster.read(directory)
        if known is not None:
            known.rest()
        if known is not None and not known.host:
            replace(known, address="").write()
        elif known is not None:
            known.forget()
        return (known or LocalCluster(directory, (), directory, 1)).end()


def join(
    way: WayIn, machine: str, *, host: str, token: str, data_directory: str, replicas: int, brought: str
) -> tuple[LocalCluster, bool]:
    """Have Ray run on this machine, called `machine`, as a part of the cluster that `way` leads into; return that part,
    and whether it had to be started. About 3 s.

    host: the address of this machine on the others' network. token: the path of Ray's token. brought: who brings it in.
    InvalidOption when it is in another cluster of that name; StoreBusy; ClusterUnavailable, and nothing of it runs.
    """
    directory = _directory(way.cluster)
    with _locked(directory):
        known = LocalCluster.read(directory)
        if known is not None and not known.host:
            raise InvalidOption(
                f"this machine has a cluster {way.cluster!r} of its own, in {known.data_directory}",
                hint="set EAU2_HOME to another directory, which this one is to be known in",
            )
        if known is not None and known.runs:
            if (known.address, known.machines) != (way.head, (machine,)):
                raise InvalidOption(
                    f"this machine is {known.machines[0]} in the cluster at {known.address}",
                    hint="`eau2 leave`, or `eau2 down`, first",
                )
            return known, False
        data = Path(data_directory).expanduser() if data_directory else _data(directory)
        wanted = LocalCluster(
            directory, (machine,), data / machine, replicas, address=way.head, host=host, token=token, brought=brought
        )
        wanted.end()  # what a `join` that was killed has left
        try:
            own_directory(wanted.folder)
            wanted.write()
            return wanted.start([machine]), True
        except Exception:
            wanted.end()
            wanted.forget()
            raise
        except BaseException:
            abandon_later(wanted)
            raise


def abandon(joined: LocalCluster) -> None:
    """End this machine's part of a cluster that it did not come to join. StoreBusy, ClusterUnavailable."""
    with _locked(joined.directory):
        joined.end()
        joined.forget()


def abandon_later(joined: LocalCluster) -> None:
    """Have another process do that, within seconds: this one was interrupted, and has none left."""
    subprocess.Popen(
        [sys.executable, "-m", "eau2.remote.launch", joined.name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _refuse_others(options: Mapping[str, tuple[object, object]], name: str) -> None:
    for option, (given, has) in options.items():
        if given not in (None, has):
            raise InvalidOption(f"{name!r} runs with {option}={has!r}, not {given!r}", hint="`eau2 down` first")


def _wanted(
    known: LocalCluster | None,
    directory: Path,
    machines: int | None,
    data_directory: str | os.PathLike[str] | None,
    replicas: int | None,
) -> LocalCluster:
    if known and known.host:
        raise InvalidOption(
            f"this machine is {known.machines[0]} in the cluster {directory.name!r} at {known.address}",
            hint="`eau2 leave`, or `eau2 down`, first; or give another --name",
        )
    had = len(known.machines) if known else 0
    count = machines if machines is not None else had or _MACHINES
    if not max(1, had) <= count <= MACHINES_MAX:
        least = f"it has {had}, and gets more" if had else "1"
        raise InvalidOption(f"{directory.name!r}: nodes is {least}, up to {MACHINES_MAX}, not {count}")
    data = Path(data_directory).absolute() if data_directory is not None else None
    if known and data not in (None, known.data_directory):
        raise InvalidOption(
            f"{directory.name!r} has its data in {known.data_directory}, not in {data}", hint="give another --name"
        )
    copies = replicas if replicas is not None else known.replicas if known else min(count, _REPLICAS)
    if not 1 <= copies <= count:
        raise InvalidOption(f"replicas is 1 to {count}, as there are {count} nodes, not {copies}")
    names = tuple(f"node-{number}" for number in range(count))
    if known:
        return replace(known, machines=names)
    return LocalCluster(directory, names, data or _data(directory), copies)


def data_directory(name: str) -> Path:
    """Return where a cluster `name` has its data on this machine, unless it was told where. InvalidOption."""
    return _data(_directory(name))


def _data(directory: Path) -> Path:
    return _home(directory) / "data" / directory.name


def _home(directory: Path) -> Path:
    return directory.parents[1]


def _directory(name: str) -> Path:
    """Return where the state of cluster `name` is. InvalidOption."""
    if not _NAME.fullmatch(name):
        raise InvalidOption(f"{name!r} is no name of a cluster", hint="letters, digits, - and _, at most 40 of them")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(os.environ.get("EAU2_HOME") or Path(state) / "eau2").absolute() / "clusters" / name


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    own_directory(directory)
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise failed_call(error, directory / "lock") from error
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _is_taken(lock):
            if time.monotonic() > deadline:
                raise StoreBusy(
                    f"another process starts or ends the cluster {directory.name!r}", hint="try again when it is done"
                )
            time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(lock)


def _is_taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    abandoned = find(sys.argv[1])
    if abandoned is not None and abandoned.host:
        abandon(abandoned)
