"""Redis's commands about keys: what each does with a view of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from eau2.doors import resp
from eau2.doors.patterns import compiled
from eau2.doors.redis_ends import ENDS, end_of
from eau2.doors.redis_words import (
    INTEGER_MAX,
    INTEGER_MIN,
    Call,
    as_bulk,
    as_bulks,
    as_integer,
    as_ok,
    asked,
    integer_of,
    key_of,
)
from eau2.doors.work import Wipe
from eau2.errors import InvalidOption, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.doors.redis import RedisConversation
    from eau2.doors.work import Asked, Outcome, View


# -- of one key -------------------------------------------------------------------------------------------------------

PATTERN_BYTES_MAX = 1024
_SET_OPTIONS = frozenset((b"NX", b"XX", b"GET", b"KEEPTTL"))
Meant = Callable[["RedisConversation", list[bytes]], "Asked"]


def get(who: RedisConversation, arguments: list[bytes]) -> Asked:
    key = key_of(arguments[0])
    return asked(Call((key,), lambda view: view.get(key)), as_bulk(who))


def set_(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """SET key value [NX | XX] [GET] [EX seconds | PX ms | EXAT moment | PXAT moment | KEEPTTL]."""
    key, value = key_of(arguments[0]), arguments[1]
    options, until = _options_of(who, arguments[2:])
    wanted = {b"NX": False, b"XX": True}.get(next((each for each in options if each in (b"NX", b"XX")), b""))
    keeps = b"KEEPTTL" in options
    if wanted is None and not keeps and b"GET" not in options:
        return asked(Call((), partial(_put, key, value, until)), as_ok(who))

    def exchange(view: View) -> Outcome:
        before = view.get(key) if b"GET" in options else None
        done = wanted is None or wanted == view.has(key)
        if done:
            view.put(key, value, until=view.until(key) if keeps else until)
        return before if b"GET" in options else done

    return asked(Call((key,), exchange), as_bulk(who) if b"GET" in options else as_ok(who))


def _options_of(who: RedisConversation, arguments: list[bytes]) -> tuple[set[bytes], int | None]:
    """Return the options of SET, and the end that it sets. InvalidOption."""
    options: set[bytes] = set()
    until: int | None = None
    rest = iter(arguments)
    for each in rest:
        option = each.upper()
        if option in ENDS and until is None and (amount := next(rest, None)) is not None:
            until = end_of(who, option, amount, "set")
        elif option in _SET_OPTIONS:
            options.add(option)
        else:
            raise InvalidOption("syntax error")
    if options >= {b"NX", b"XX"} or (until is not None and b"KEEPTTL" in options):
        raise InvalidOption("syntax error")
    return options, until


def _put(key: str, value: bytes, until: int | None, view: View) -> Outcome:
    view.put(key, value, until=until)
    return True


def setex(option: bytes) -> Meant:
    """Return SETEX or PSETEX: key time value."""
    return lambda who, given: set_(who, [given[0], given[2], option, given[1]])


def _put_if(key: str, value: bytes, wanted: bool, view: View) -> Outcome:
    if view.has(key) != wanted:
        return False
    view.put(key, value)
    return True


def setnx(who: RedisConversation, arguments: list[bytes]) -> Asked:
    key = key_of(arguments[0])
    return asked(Call((key,), partial(_put_if, key, arguments[1], False)), as_integer)


def getset(who: RedisConversation, arguments: list[bytes]) -> Asked:
    return set_(who, [*arguments, b"GET"])


def getdel(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """GETDEL key."""
    key = key_of(arguments[0])

    def take(view: View) -> Outcome:
        value = view.get(key)
        view.delete(key)
        return value

    return asked(Call((key,), take), as_bulk(who))


def getrange(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """GETRANGE key start end: both ends are in it, and negative ones count from the end."""
    key, first, last = key_of(arguments[0]), integer_of(arguments[1]), integer_of(arguments[2])

    def part(view: View) -> Outcome:
        value = view.get(key) or b""
        size = len(value)
        if first < 0 and last < 0 and first > last:
            return b""
        start = max(0, first + size if first < 0 else first)
        end = max(0, last + size if last < 0 else last)
        return value[start : end + 1] if end >= start else b""

    return asked(Call((key,), part), as_bulk(who))


def strlen(who: RedisConversation, arguments: list[bytes]) -> Asked:
    key = key_of(arguments[0])
    return asked(Call((key,), lambda view: len(view.get(key) or b"")), as_integer)


def append(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """APPEND key value."""
    key, more = key_of(arguments[0]), arguments[1]

    def append(view: View) -> Outcome:
        value = (view.get(key) or b"") + more
        view.put(key, value, until=view.until(key))
        return len(value)

    return asked(Call((key,), append), as_integer)


def add(arguments: list[bytes], amount: int) -> Asked:
    """INCR and the like: add `amount` to the integer under the key, 0 where nothing is."""
    key = key_of(arguments[0])

    def add(view: View) -> Outcome:
        value = view.get(key)
        number = integer_of(b"0" if value is None else value) + amount
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise InvalidValue("increment or decrement would overflow")
        view.put(key, b"%d" % number, until=view.until(key))
        return number

    return asked(Call((key,), add), as_integer)


def type_(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """TYPE key: string, frame or none."""
    key = key_of(arguments[0])

    def kind(view: View) -> Outcome:
        return b"frame" if view.is_frame(key) else b"string" if view.has(key) else b"none"

    def tell(outcome: Outcome) -> bytes:
        assert isinstance(outcome, bytes)
        return resp.simple(outcome.decode())

    return asked(Call((key,), kind), tell)


# -- of several keys --------------------------------------------------------------------------------------------------


def mget(who: RedisConversation, arguments: list[bytes]) -> Asked:
    keys = [key_of(each) for each in arguments]
    return asked(
        Call(keys, lambda view: [None if view.is_frame(key) else view.get(key) for key in keys], alone=True),
        as_bulks(who),
    )


def mset(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """MSET key value [key value ...]."""
    if len(arguments) % 2:
        raise InvalidOption("wrong number of arguments for 'mset' command")
    values = [(key_of(key), value) for key, value in zip(arguments[::2], arguments[1::2], strict=True)]

    def put(view: View) -> Outcome:
        for key, value in values:
            view.put(key, value)
        return True

    return asked(Call((), put, alone=True), as_ok(who))


def msetnx(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """MSETNX key value [key value ...]: all, or none where something is under one of the keys."""
    if len(arguments) % 2:
        raise InvalidOption("wrong number of arguments for 'msetnx' command")
    values = {key_of(key): value for key, value in zip(arguments[::2], arguments[1::2], strict=True)}

    def put(view: View) -> Outcome:
        if any(view.has(key) for key in values):  # of all, so that all are looked at again when they are written
            return False
        for key, value in values.items():
            view.put(key, value)
        return True

    return asked(Call([*values], put, alone=True), as_integer)


def rename(who: RedisConversation, arguments: list[bytes], *, over: bool) -> Asked:
    """RENAME key newkey, which is replaced if `over`, or RENAMENX. The end of the key goes with it."""
    key, new = key_of(arguments[0]), key_of(arguments[1])

    def move(view: View) -> Outcome:
        value = view.get(key)
        if value is None:
            raise InvalidOption("no such key")
        if not over and view.has(new):
            return False
        if key != new:
            view.put(new, value, until=view.until(key))
            view.delete(key)
        return True

    return asked(Call((key, new), move, alone=True), as_ok(who) if over else as_integer)


def delete(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """DEL key [key ...]."""
    keys = [key_of(each) for each in arguments]

    def discard(view: View) -> Outcome:
        for key in keys:
            view.discard(key)
        return 0

    due = [key for key in keys if who.listings.deadlines.is_due(key)]  # what has ended does not count
    return asked(Call(due, discard, alone=True, counts=True), as_integer)


def exists(who: RedisConversation, arguments: list[bytes]) -> Asked:
    keys = [key_of(each) for each in arguments]
    return asked(Call(keys, lambda view: sum([view.has(key) for key in keys]), alone=True), as_integer)


# -- of all keys ------------------------------------------------------------------------------------------------------


def dbsize(who: RedisConversation, arguments: list[bytes]) -> Asked:
    return asked(Call((), lambda view: len(view.every_key()), alone=True), as_integer)


def _matching(pattern: bytes) -> Callable[[str], object]:
    if len(pattern) > PATTERN_BYTES_MAX:
        raise InvalidOption(f"a pattern has at most {PATTERN_BYTES_MAX:,} bytes")
    return compiled(pattern.decode("utf-8", "replace")).fullmatch


def keys_(who: RedisConversation, arguments: list[bytes]) -> Asked:
    matches = _matching(arguments[0])
    return asked(Call((), lambda view: [key for key in view.every_key() if matches(key)], alone=True), as_bulks(who))


def scan(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]."""
    cursor, count, matches, kind = integer_of(arguments[0]), 10, None, b""
    if len(arguments) % 2 == 0:
        raise InvalidOption("syntax error")
    for option, value in zip(arguments[1::2], arguments[2::2], strict=True):
        if option.upper() == b"MATCH":
            matches = _matching(value)
        elif option.upper() == b"COUNT" and integer_of(value) > 0:
            count = integer_of(value)
        elif option.upper() == b"TYPE":
            kind = value.lower()
        else:
            raise InvalidOption("syntax error")
    listings = who.listings

    def scan(view: View) -> Outcome:
        at = listings.begin(_of_kind(view, kind)) if cursor == 0 else cursor
        follows, keys = listings.step(at, count)
        return [str(follows), *(key for key in keys if matches is None or matches(key))]

    def tell(outcome: Outcome) -> bytes:
        assert isinstance(outcome, list)
        follows, *keys = (each.encode() for each in outcome if isinstance(each, str))
        return resp.array([who.bulk(follows), resp.array(map(who.bulk, keys))])

    return asked(Call((), scan, alone=True), tell)


def _of_kind(view: View, kind: bytes) -> Sequence[str]:
    if not kind:
        return view.every_key()
    frames = set(view.frames())
    if kind == b"frame":
        return sorted(frames)
    return [key for key in view.every_key() if key not in frames] if kind == b"string" else []


def flushdb(who: RedisConversation, arguments: list[bytes]) -> Asked:
    """FLUSHDB: delete all keys."""
    if not who.allow_wipe:
        raise InvalidOption("FLUSHDB is off: the server was not started with --allow-wipe")
    who.access.audit("wipe out")
    return asked(Wipe(), lambda outcome: resp.OK)
