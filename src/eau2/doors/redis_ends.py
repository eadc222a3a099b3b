"""Redis's commands about when keys end. A value has its end with it: who replaces the one replaces the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.doors.redis_words import Call, as_integer, asked, integer_of, key_of
from eau2.errors import InvalidOption, InvalidValue, WrongKind

if TYPE_CHECKING:
    from eau2.doors.redis import RedisConversation
    from eau2.doors.redis_keys import Meant
    from eau2.doors.work import Asked, Outcome, View

_UNTIL_MAX = 1 << 62  # ms since 1970
_UNITS = {b"EX": (1000, True), b"PX": (1, True), b"EXAT": (1000, False), b"PXAT": (1, False)}  # in ms; from now
ENDS = frozenset(_UNITS)
_WHEN = frozenset((b"NX", b"XX", b"GT", b"LT"))


def end_of(who: RedisConversation, option: bytes, argument: bytes, command: str) -> int:
    """Return the moment that `EX 10` and the like are, in ms since 1970. InvalidValue."""
    amount = integer_of(argument)
    if amount <= 0:
        raise InvalidValue(f"invalid expire time in '{command}' command")
    return _moment(who, option, amount, command)


def _moment(who: RedisConversation, option: bytes, amount: int, command: str) -> int:
    unit, from_now = _UNITS[option]
    until = amount * unit + (who.listings.deadlines.now() if from_now else 0)
    if abs(until) > _UNTIL_MAX:
        raise InvalidValue(f"invalid expire time in '{command}' command")
    return until


def expire(option: bytes, command: str) -> Meant:
    """Return EXPIRE and the like: key time [NX | XX | GT | LT], with the time as `option` of SET has it."""

    def meant(who: RedisConversation, arguments: list[bytes]) -> Asked:
        key, until = key_of(arguments[0]), _moment(who, option, integer_of(arguments[1]), command)
        when = {each.upper() for each in arguments[2:]}
        if not when <= _WHEN:
            raise InvalidOption(f"Unsupported option {arguments[2].decode('utf-8', 'replace')}")
        if len(when) > 1 and (b"NX" in when or when >= {b"GT", b"LT"}):
            raise InvalidOption("NX and XX, GT or LT options at the same time are not compatible")

        def do(view: View) -> Outcome:
            if not view.has(key):
                return False
            if view.is_frame(key):
                raise WrongKind(f"{key!r} holds a frame, which has no end")
            if not _is_wanted(when, view.until(key), until):
                return False
            value = view.get(key)
            assert value is not None
            view.put(key, value, until=until)
            return True

        return asked(Call((key,), do), as_integer)

    return meant


def _is_wanted(when: set[bytes], before: int | None, until: int) -> bool:
    """Whether what ends at `before`, None being never, is to end at `until`."""
    if (b"NX" in when and before is not None) or (b"XX" in when and before is None):
        return False
    if b"GT" in when:
        return before is not None and until > before
    return b"LT" not in when or before is None or until < before


def persist(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """PERSIST key: it has no end any more."""
    key = key_of(arguments[0])

    def do(view: View) -> Outcome:
        if view.until(key) is None:
            return False
        value = view.get(key)
        assert value is not None
        view.put(key, value)
        return True

    return asked(Call((key,), do), as_integer)


def left(unit: int, *, at: bool = False) -> Meant:
    """Return TTL and the like: how long a key is there, or `at` what moment it ends, in `unit` ms; -1 where it has no
    end, -2 where it is not there."""

    def meant(who: RedisConversation, arguments: list[bytes]) -> Asked:
        key = key_of(arguments[0])

        def do(view: View) -> Outcome:
            if not view.has(key):
                return -2
            until = view.until(key)
            if until is None:
                return -1
            return (until - (0 if at else view.now) + (0 if at else unit // 2)) // unit

        return asked(Call((key,), do), as_integer)

    return meant
