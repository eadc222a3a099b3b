"""Which cluster `ray:...` names, and whether it can be used: found out before Ray is asked to connect, which may hang.

ray:                 the cluster `eau2` of this machine: of `eau2 up`, or else of the Ray cluster it belongs to
ray:NAME             the cluster NAME of this machine
ray:HOST:PORT        the cluster `eau2` of the Ray cluster whose head (GCS) listens there
ray:HOST:PORT/NAME   the cluster NAME of it; one Ray cluster may have several, which do not see each other
"""

from __future__ import annotations

import json
import os
import platform
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eau2.errors import ClusterUnavailable, InvalidOption, PartMissing, VersionsDiffer
from eau2.remote import launch

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")

SCHEME = "ray:"
ANSWER_SECONDS = 20.0  # 0.5 s here
_CONNECT_SECONDS = 2.0
_LOOK_SECONDS = 10.0  # milliseconds here
_TOKEN_HINT = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token of the cluster"
_TOKEN_WORDS = (b"authentication token", b"RAY_AUTH_TOKEN")  # of Ray, when it ends a process for want of one
_IMPORT_SECONDS = 60.0  # of Ray, before: 0.6 s here, more where others work
_FORM = re.compile(r"ray:(?:(?P<head>[^/:]+:\d+|\[[0-9a-fA-F:]+\]:\d+)(?:/(?P<there>[\w-]+))?|(?P<here>[\w-]*))")
_CURRENT = "ray/ray_current_cluster"  # where `ray start` writes the address of its head


@dataclass(frozen=True, slots=True)
class Address:
    """A cluster of eau2 on a Ray cluster."""

    head: str  # HOST:PORT
    name: str
    environment: dict[str, str] = field(default_factory=dict)  # to connect with, besides what there is
    host: str = ""  # the address of the raylet to connect by, where this machine joined with one


def address_of(text: str) -> Address:
    """Return what `text`, "ray:...", names. InvalidOption; ClusterUnavailable when this machine has no cluster."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidOption(
            f"{text!r} is no address of a cluster", hint="ray: or ray:NAME or ray:HOST:PORT or ray:HOST:PORT/NAME"
        )
    head, name = found["head"], found["there"] or found["here"] or launch.NAME
    local = launch.find(name) if head is None else None
    given = head or os.environ.get("RAY_ADDRESS", "")
    if not given and local is not None and local.address:
        return Address(local.address, name, local.environment(), local.host)
    given = given or _current()
    if ":" not in given:
        raise ClusterUnavailable(
            f"this machine has no cluster {name!r}, and belongs to no Ray cluster",
            hint="`eau2 up` starts one here; ray:HOST:PORT is one elsewhere",
        )
    mine = next((one for one in launch.all_of_them() if one.address == given), None)
    return Address(given, name, mine.environment(), mine.host) if mine else Address(given, name)


def _current() -> str:
    try:
        return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / _CURRENT).read_text().strip()
    except OSError:
        return ""


def look(address: Address) -> dict[str, dict[str, Any]]:
    """Return the clusters of eau2 on the Ray cluster at `address`: what they were deployed with, by name. About 0.6 s.

    PartMissing without Ray; ClusterUnavailable when the head is absent, frozen, or refuses our token, 12 s after
    Ray was imported at most; VersionsDiffer unless Python, Ray and eau2 are what they are here.
    """
    require_ray()
    reach(address.head)
    found = _looked(address)
    _require_same("Ray", version("ray"), found["ray_version"], address)
    _require_same("Python", platform.python_version(), found["python_version"], address)
    clusters: dict[str, dict[str, Any]] = found["clusters"]
    require_same_eau2(clusters, address)
    return clusters


_START_HINT = "is Ray running there? `eau2 up` starts a cluster on this machine"


def reach(head: str, *, who: str = "{}", hint: str = _START_HINT) -> str:
    """Connect to HOST:PORT; return the address that this machine has on the way there. ClusterUnavailable, within
    2 s. who: what it is called there."""
    host, _, port = head.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as connected:
            found: str = connected.getsockname()[0]
            return found
    except (OSError, UnicodeError) as error:  # that: it cannot be the name of a machine
        reason = getattr(error, "strerror", "") or error
        why = "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached: {reason}"
        raise ClusterUnavailable(f"{who.format(head)} {why}", hint=hint) from error


def require_same_eau2(clusters: dict[str, dict[str, Any]], address: Address) -> None:
    """Raise VersionsDiffer unless the one of `clusters` at `address`, if there is one, has our eau2."""
    theirs = clusters.get(address.name, {}).get("eau2", own_version())
    if theirs != own_version():
        raise VersionsDiffer(
            f"eau2 is {own_version()} here, and {theirs} at {address.head}, in the cluster {address.name!r}",
            hint="all machines need the same version, and Ray started anew with it: `eau2 down`, then `eau2 up`",
        )


def _looked(address: Address) -> dict[str, Any]:
    """Ask the head, in another process: it may hang there, or be aborted by Ray."""
    silent = ClusterUnavailable(
        f"{address.head} accepts connections, but no head of Ray answers",
        hint="is it the port of the GCS (6379 by default)? is its process, gcs_server, stopped or overloaded?",
    )
    command = [sys.executable, "-m", "eau2.remote.ray", json.dumps({"address": address.head})]
    environment = os.environ | address.environment
    _require_token(environment.get("RAY_AUTH_TOKEN_PATH"))
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, env=environment, stdin=null, stdout=pipe, stderr=said, bufsize=0) as asking,
    ):
        try:
            began = select.poll()
            began.register(asking.stdout)  # type: ignore[arg-type]  # a pipe
            began.poll(_IMPORT_SECONDS * 1e3)  # it says when it begins, or ends
            answer, _ = asking.communicate(timeout=_LOOK_SECONDS)
            found: dict[str, Any] = json.loads(answer.rsplit(b"\n", 2)[-2])
        except (subprocess.TimeoutExpired, ValueError, IndexError):
            said.seek(0)
            trouble = said.read()
            if any(word in trouble for word in _TOKEN_WORDS):
                raise ClusterUnavailable(f"{address.head} wants a token, and there is none", hint=_TOKEN_HINT) from None
            raise silent from None
        finally:
            asking.kill()
    if "refused" in found:
        raise ClusterUnavailable(f"{address.head} refuses our token", hint=_TOKEN_HINT)
    if "ray_version" not in found:
        raise silent
    return found


def _require_token(path: str | None) -> None:
    """Raise ClusterUnavailable unless the token at `path` can be read: Ray would end the process that asks."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            if file.read().strip():
                return
        why = "it is empty"
    except OSError as error:
        why = error.strerror or str(error)
    raise ClusterUnavailable(f"there is no token at {path}: {why}", hint=_TOKEN_HINT)


def own_token() -> str:
    """Return the path of the token that this machine has for Ray. ClusterUnavailable when it has none."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if os.environ.get("RAY_AUTH_MODE") != "token" or not path:
        raise ClusterUnavailable(
            "this machine has no token for Ray, and nothing is to listen without", hint=_TOKEN_HINT
        )
    _require_token(path)
    return os.path.abspath(path)


def are_alike(what: str, ours: str, theirs: str) -> bool:
    """Return whether two versions of `what` can work together."""
    if what == "Python" and os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor":
        ours, theirs = ours.rpartition(".")[0], theirs.rpartition(".")[0]
    return ours == theirs


def _require_same(what: str, ours: str, theirs: str, address: Address) -> None:
    if not are_alike(what, ours, theirs):
        raise VersionsDiffer(
            f"{what} is {ours} here, and {theirs} at {address.head}", hint="all machines need the same versions"
        )


def require_ray() -> None:
    """Raise PartMissing when Ray is not installed."""
    try:
        version("ray")
    except PackageNotFoundError:
        raise PartMissing("a cluster needs Ray, which is not installed", hint='pip install "eau2[cluster]"') from None


def own_version() -> str:
    try:
        return version("eau2")
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def in_time(address: Address, ask: Callable[[], Value]) -> Value:
    """Return what `ask` does, in a thread of its own, as it may hang: on a raylet that is frozen, for one."""
    done: Future[Value] = Future()

    def run() -> None:
        try:
            done.set_result(ask())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="eau2-connecting", daemon=True).start()
    try:
        return done.result(ANSWER_SECONDS)
    except Exception as error:
        why = "does not answer" if isinstance(error, TimeoutError) else f"refuses: {error}"
        raise ClusterUnavailable(
            f"the Ray cluster at {address.head} {why}",
            hint="does a raylet run on this machine, and is neither it nor the head stopped or overloaded?",
        ) from error
