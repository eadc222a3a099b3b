"""How another machine comes to a cluster: what it is told, what it must have, and who is said to have brought it in."""

from __future__ import annotations

import ipaddress
import platform
import re
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption, PartMissing, VersionsDiffer
from eau2.remote.address import are_alike, own_version
from eau2.store.membership import no_way_in

if TYPE_CHECKING:
    from eau2.store.membership import WayIn

_MACHINE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")  # what Ray takes as the value of a label


def own_versions() -> dict[str, str]:
    """Return the versions that must be alike on all machines, by what has them; "" for Ray where there is none."""
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = ""
    return {"Python": platform.python_version(), "Ray": ray, "eau2": own_version()}


def require_alike(way: WayIn, ours: dict[str, str]) -> None:
    """Raise unless `ours` are the versions of the cluster that `way` leads into: PartMissing when it is Ray that is
    not there at all, otherwise VersionsDiffer. The hint says what to install."""
    theirs = {"Python": way.python, "Ray": way.ray, "eau2": way.eau2}
    other = [what for what, has in theirs.items() if not are_alike(what, ours[what], has)]
    if not other:
        return
    hint = [f"make an environment of Python {way.python}"] if "Python" in other else []
    if other != ["Python"]:
        hint.append(f'pip install "eau2[cluster]=={way.eau2}" "ray=={way.ray}"')
    if other == ["Ray"] and not ours["Ray"]:
        raise PartMissing("a cluster needs Ray, which is not installed", hint=hint[0])
    differ = "; ".join(f"{what} is {ours[what] or 'not installed'} here, and {theirs[what]} there" for what in other)
    raise VersionsDiffer(f"the cluster at {way.head} has other versions: {differ}", hint=", then ".join(hint))


def checked_machine(name: str | None) -> str:
    """Return what a machine is to be called: `name`, or what it calls itself. InvalidOption when no machine can be.

    >>> checked_machine("rack-7.example")
    'rack-7.example'
    """
    found = socket.gethostname() if name is None else name
    if not _MACHINE.fullmatch(found):
        raise InvalidOption(
            f"{found!r} is no name of a machine", hint="--machine NAME: letters, digits, and - _ . within, at most 63"
        )
    return found


def checked_host(host: str, head: str) -> str:
    """Return `host`, the address of this machine that leads to `head`, if others can come by it. InvalidOption."""
    if _is_loopback(host) or _is_loopback(head.rpartition(":")[0].strip("[]")):
        raise no_way_in(f"the cluster at {head}, which listens to its own machine alone")
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def brought_in(user: str, host: str, through: str, now: float) -> str:
    """Return in words who brings a machine in. `now`: seconds since 1970.

    >>> brought_in("ann", "dev", "host-1", 0.0)
    'brought in by ann@dev through host-1 at 1970-01-01 00:00:00Z'
    """
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now))
    return f"brought in by {user}@{host} through {through or 'the head'} at {at}"
