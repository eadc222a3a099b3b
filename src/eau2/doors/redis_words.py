"""What Redis's commands are made of: arguments as they are read, outcomes as they are told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from eau2.doors import resp
from eau2.doors.work import Asked, Outcome
from eau2.errors import Eau2Error, InvalidKey, InvalidValue, NodeUnavailable, ReadOnly, StoreBusy, WrongKind
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.doors.redis import RedisConversation
    from eau2.doors.work import Command, View

INTEGER_MIN, INTEGER_MAX = -(1 << 63), (1 << 63) - 1
_NO_INTEGER = "value is not an integer or out of range"
_KINDS: dict[type[Eau2Error], str] = {
    WrongKind: "WRONGTYPE",
    ReadOnly: "READONLY",
    StoreBusy: "TRYAGAIN",
    NodeUnavailable: "CLUSTERDOWN",
    Eau2Error: "ERR",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A command for the store: `do` with the keys it `reads`."""

    reads: Sequence[str]
    do: Callable[[View], Outcome]
    alone: bool = False  # set where it has not just one key
    counts: bool = False

    def run(self, view: View) -> Outcome:
        return self.do(view)


def failure(error: Eau2Error) -> bytes:
    """Return `error` as Redis says it."""
    kind = next(_KINDS[each] for each in type(error).__mro__ if each in _KINDS)
    if kind == "WRONGTYPE":
        return resp.error("WRONGTYPE Operation against a key holding the wrong kind of value")
    return resp.error(f"{kind} {error.message}")


def told(tell: Callable[[Outcome], bytes], outcome: Outcome) -> bytes:
    return failure(outcome) if isinstance(outcome, Eau2Error) else tell(outcome)


def asked(call: Command, tell: Callable[[Outcome], bytes]) -> Asked:
    """Return the request for `call`, whose outcome `tell` encodes, unless it is an error."""
    return Asked(call, partial(told, tell))


def as_bulk(who: RedisConversation) -> Callable[[Outcome], bytes]:
    """Return what tells bytes, or that there are none."""
    resp3 = who.resp3

    def tell(outcome: Outcome) -> bytes:
        assert outcome is None or isinstance(outcome, bytes)
        return resp.bulk(outcome, resp3=resp3)

    return tell


def as_integer(outcome: Outcome) -> bytes:
    assert isinstance(outcome, int)
    return resp.integer(outcome)


def as_ok(who: RedisConversation) -> Callable[[Outcome], bytes]:
    """Return what tells OK where something was done, else null."""
    null = who.null()
    return lambda outcome: resp.OK if outcome else null


def as_bulks(who: RedisConversation) -> Callable[[Outcome], bytes]:
    """Return what tells a list of bytes or of names."""
    resp3 = who.resp3

    def tell(outcome: Outcome) -> bytes:
        assert isinstance(outcome, list)
        return resp.array(resp.bulk(each.encode() if isinstance(each, str) else each, resp3=resp3) for each in outcome)

    return tell


def key_of(argument: bytes) -> str:
    """Return the key that `argument` is. InvalidKey."""
    try:
        return check_key(argument.decode())
    except UnicodeDecodeError:
        raise InvalidKey("a key is text in UTF-8") from None


def integer_of(argument: bytes) -> int:
    """Return the integer of 64 bits that `argument` is, as Redis writes it: no blank, no +, no leading zero."""
    text = argument.decode("ascii", "replace")
    digits = text.removeprefix("-")
    if digits.isdecimal() and len(digits) < 20 and digits.isascii() and str(int(text)) == text:
        number = int(text)
        if INTEGER_MIN <= number <= INTEGER_MAX:
            return number
    raise InvalidValue(_NO_INTEGER)


def name_of(argument: bytes) -> str:
    """Return the name of a client that `argument` is. InvalidValue."""
    text = argument.decode("utf-8", "replace")
    if not all("!" <= each <= "~" for each in text):
        raise InvalidValue("Client names cannot contain spaces, newlines or special characters.")
    return text
