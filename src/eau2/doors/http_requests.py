"""What a request of HTTP means, and whether it may be: keys, conditions, errors and strangers. No sockets, no store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from eau2 import errors
from eau2.doors.addresses import LOOPBACK, Networks
from eau2.doors.http_values import NotAcceptable
from eau2.doors.tokens import Role
from eau2.errors import Eau2Error, InvalidKey, InvalidOption, VersionConflict
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE, PAGE_FILES = "/monitor/", "/monitor/static/"
PUBLIC = frozenset({"/", "/health", "/monitor", PAGE})  # what is said to those without a token: nothing that is stored
READING = frozenset({"GET", "HEAD", "POST"})  # a POST is a query
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::\d{1,5})?")
_TAG = re.compile(r'\s*(?:(W/)?"([^"]*)"|(\*))\s*(?:,|$)')
_OUTPUT = re.compile(PAGE + r"runs/[^/]*/output")  # of commands: it may hold secrets
_LOOPBACK = Networks(LOOPBACK)

# An error has the status of the nearest of its classes in this table.
STATUSES: dict[type[Eau2Error], int] = {
    errors.KeyMissing: 404,
    errors.KeyExists: 412,
    errors.VersionConflict: 412,
    errors.InvalidKey: 400,
    errors.InvalidValue: 400,
    errors.ValueTooLarge: 413,
    errors.WrongKind: 409,
    NotAcceptable: 406,
    errors.InvalidOption: 400,
    errors.QueryError: 400,
    errors.LoadError: 400,
    errors.StoreClosed: 503,
    errors.WaitTimeout: 504,
    errors.StoreBusy: 503,
    errors.OutcomeUnknown: 504,
    errors.NodeUnavailable: 503,
    errors.ClusterUnavailable: 503,
    errors.PartMissing: 501,
    errors.QueryOutOfMemory: 507,
    errors.DiskFull: 507,
    errors.NotAllowed: 403,
    errors.ReadOnly: 503,
    errors.Eau2Error: 500,
}


class Refused(Exception):
    """A request that is refused before the store is asked. `kind` is what `error` is called in the answer."""

    def __init__(
        self, status: int, kind: str, message: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.hint, self.headers = status, kind, message, hint, headers or {}


def status_of(error: Eau2Error) -> int:
    """Return the status of an answer that is `error`.

    >>> status_of(errors.UnknownTable("no frame 't'")), status_of(errors.DiskFull("full"))
    (400, 507)
    """
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


# -- keys -------------------------------------------------------------------------------------------------------------


def key_of(escaped: str) -> str:
    """Return the key that `escaped`, the rest of a path, stands for. InvalidKey.

    >>> key_of("trips%2F2026/%C3%A9%3F"), key_of("/a//b")
    ('trips/2026/é?', '/a//b')
    """
    try:
        return check_key(unquote_to_bytes(escaped).decode())
    except UnicodeDecodeError:
        raise InvalidKey(f"a key is text in UTF-8, percent-encoded, not {escaped!r:.80}") from None


def path_of(key: str) -> str:
    """Return the path at which `key` is. Slashes stay.

    >>> path_of("trips/2026 é?")
    '/keys/trips/2026%20%C3%A9%3F'
    """
    return "/keys/" + quote_from_bytes(key.encode(), safe="/")


# -- conditions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be under a key for a write to be done."""

    absent: bool = False
    present: bool = False
    version: int | None = None  # with present


def tag_of(version: int) -> str:
    """Return the ETag of `version`."""
    return f'"{version}"'


def condition_of(if_match: str | None, if_none_match: str | None) -> Condition:
    """Return what these headers of a write ask for. InvalidOption; VersionConflict for what is no version of ours."""
    if if_match is None and if_none_match is None:
        return Condition()
    if if_match is None:
        if if_none_match is None or if_none_match.strip() != "*":
            raise InvalidOption("If-None-Match of a write is *", hint="If-Match names the version that is replaced")
        return Condition(absent=True)
    if if_none_match is not None:
        raise InvalidOption("If-Match and If-None-Match exclude each other")
    tags = _tags(if_match)
    if len(tags) != 1:
        raise InvalidOption(f"If-Match names one version, or *, not {if_match!r:.80}", hint='as the ETag: "3"')
    if tags == ["*"]:
        return Condition(present=True)
    number = tags[0]
    if not (number.isascii() and number.isdecimal() and len(number) < 20 and int(number) > 0):
        raise VersionConflict(f"{if_match!r:.80} is no version of any key", found=0)
    return Condition(present=True, version=int(number))


def is_known(if_none_match: str | None, version: int) -> bool:
    """Whether the header says that the client has `version`."""
    return if_none_match is not None and not {"*", str(version)}.isdisjoint(_tags(if_none_match))


def _tags(header: str) -> list[str]:
    """Return the tags of a header without their quotes, [] where it is malformed."""
    found, at = [], 0
    while at < len(header):
        tag = _TAG.match(header, at)
        if tag is None:
            return []
        found.append("*" if tag[3] else tag[2])
        at = tag.end()
    return found


# -- strangers --------------------------------------------------------------------------------------------------------


def check_sender(headers: Mapping[str, str], *, host: str, has_tokens: bool) -> None:
    """Raise Refused for what a web page of somebody else has its visitor's browser send to the server at `host`.

    Browsers say where a request comes from: what another site began is refused. A page whose own name was made to
    mean this machine (DNS rebinding) is of the same site, but its name is not ours; with tokens it has none.
    """
    given = headers.get("host")
    if given is not None and not has_tokens and not _is_ours(given, host):
        raise Refused(
            421, "Misdirected", f"this server is not {given!r:.80}", hint="without tokens it answers to localhost only"
        )
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    own = (f"http://{given}", f"https://{given}")
    if (site is not None and site not in ("same-origin", "none")) or (origin is not None and origin not in own):
        raise Refused(
            403, "Forbidden", "a page of another site may not ask this server", hint="ask from outside a browser"
        )


def _is_ours(given: str, host: str) -> bool:
    parsed = _HOST.fullmatch(given)
    if parsed is None:
        return False
    name = parsed[1].strip("[]").lower()
    if name in ("localhost", host.lower()):
        return True
    try:
        return name in _LOOPBACK
    except ValueError:  # a name
        return False


def role_wanted(method: str, path: str) -> Role:
    """Return what a client must be allowed for a request.

    >>> role_wanted("GET", "/monitor/static/page.js"), role_wanted("POST", "/monitor/queries/3/cancel")
    (<Role.NOTHING: 0>, <Role.ADMIN: 3>)
    """
    if path in PUBLIC or path.startswith(PAGE_FILES):
        return Role.NOTHING
    if path.startswith(PAGE) and (method not in ("GET", "HEAD") or _OUTPUT.fullmatch(path)):
        return Role.ADMIN
    return Role.READ if method in READING else Role.WRITE


def is_run(method: str, path: str) -> bool:
    """Whether a request is to begin or end a run of commands."""
    return method == "POST" and (path + "/").startswith(f"{PAGE}runs/")


def bearer_of(authorization: str) -> str | None:
    """Return the token in an Authorization header, None where it has none."""
    scheme, _, token = authorization.strip().partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None
