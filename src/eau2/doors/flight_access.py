"""Who calls: the token in the headers of a Flight call, as `Authorization: Bearer` or as a password."""

from __future__ import annotations

import base64
import binascii
import threading
from typing import TYPE_CHECKING, Any

from pyarrow import flight

from eau2.doors.tokens import Access, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from eau2.doors.counts import DoorCounts
    from eau2.doors.tokens import Tokens


class Caller(flight.ServerMiddleware):  # type: ignore[misc]  # pyarrow is not typed here
    """Who makes one call."""

    def __init__(self, access: Access, token: str, ended: Callable[[bool], None]) -> None:
        self.access, self._token, self._ended = access, token, ended

    def sending_headers(self) -> dict[str, str]:
        """Tell who came with a password what to come with from now on."""
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    def call_completed(self, exception: BaseException | None) -> None:
        """Called by Flight when the call is over, with what it raised."""
        self._ended(exception is not None)

    def require(self, role: Role) -> None:
        """Raise FlightUnauthenticatedError, FlightUnauthorizedError unless the caller may do what needs `role`."""
        if not self.access.role:
            raise flight.FlightUnauthenticatedError("a token is needed: Authorization: Bearer TOKEN")
        if refusal := self.access.refusal(role, ""):
            raise flight.FlightUnauthorizedError(refusal)


class Counted:
    """Counts calls, each in a thread of its own. Timed are those that carry no rows: others take as long as these."""

    def __init__(self, counts: DoorCounts) -> None:
        self._counts = counts
        self._lock = threading.Lock()  # guards what there is in it

    def begin(self, *, timed: bool = False) -> Callable[[bool], None]:
        """A call has come; return what is to be told at its end whether it failed."""
        with self._lock:
            self._counts.requests += 1
            began = self._counts.begin()

        def end(failed: bool) -> None:
            with self._lock:
                self._counts.errors += failed
                if timed:
                    self._counts.end(began)

        return end


class Callers(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Makes a Caller of the headers of each call. `audit` is told of tokens that are refused, and of who came."""

    def __init__(self, tokens: Tokens, counted: Counted, audit: Callable[[str, object], None]) -> None:
        self._tokens, self._counted, self._audit = tokens, counted, audit

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> Caller:
        """Return who calls. FlightUnauthenticatedError for a token that is not known."""
        access = Access(self._tokens, lambda what: self._audit(what, "flight"))
        token, by_password = _token(headers)
        if token and access.has_tokens and not access.identify(token):
            self._counted.begin()(True)
            raise flight.FlightUnauthenticatedError("the token is not known")
        with_rows = info.method in (flight.FlightMethod.DO_GET, flight.FlightMethod.DO_PUT)
        return Caller(access, token if by_password else "", self._counted.begin(timed=not with_rows))

    @staticmethod
    def handshake() -> flight.ServerAuthHandler:
        """Return what lets a client come with a password at first: the headers say it all."""
        return _Handshake()


class _Handshake(flight.ServerAuthHandler):  # type: ignore[misc]
    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        return

    def is_valid(self, token: bytes) -> str:
        return ""


def caller_of(context: Any) -> Caller:
    """Return who makes the call that `context` is of."""
    found: Caller = context.get_middleware("caller")
    return found


def _token(headers: dict[str, list[Any]]) -> tuple[str, bool]:
    """Return the token in `headers`, "" for none, and whether it was a password."""
    for name, values in headers.items():
        if name.lower() != "authorization" or not values:
            continue
        text = values[0] if isinstance(values[0], str) else bytes(values[0]).decode("latin-1")
        kind, _, value = text.partition(" ")
        if kind.lower() == "bearer":
            return value.strip(), False
        if kind.lower() == "basic":
            try:
                return base64.b64decode(value, validate=False).decode().partition(":")[2], True
            except (binascii.Error, UnicodeDecodeError):
                return "?", True  # no token of anybody's: too short
    return "", False
