"""Redis's protocol: what a connection may say, and what is answered without the store. No sockets.

What it has of Redis, and where it differs: docs/doors.md.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakValueDictionary

from eau2.doors import redis_ends as ends
from eau2.doors import redis_keys as keys
from eau2.doors import resp
from eau2.doors.deadlines import Deadlines
from eau2.doors.redis_words import failure, integer_of, name_of
from eau2.doors.resp import Commands
from eau2.doors.tokens import Role
from eau2.doors.work import Asked, Plain, Said, Verb
from eau2.errors import Eau2Error, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eau2.doors.tokens import Access

LISTINGS_MAX = 64  # scans that are under way
LISTED_MAX = 4_000_000  # keys of theirs together
_OF_BROWSERS = frozenset(("POST", "HOST:"))  # a page that somebody looks at here must not get commands done
_ROLES = {Verb.GET: Role.READ, Verb.PUT: Role.WRITE}
_OFFSET_BITS = 32  # of a cursor; those above are the listing


class Listings:
    """What a server's conversations share: the scans under way, and who is there."""

    def __init__(self, deadlines: Deadlines | None = None) -> None:
        self.deadlines = deadlines or Deadlines()
        self.clients: WeakValueDictionary[int, RedisConversation] = WeakValueDictionary()
        self.ids = itertools.count(1)
        self._listings: OrderedDict[int, Sequence[str]] = OrderedDict()  # for the keyspace's thread only
        self._next = itertools.count(1)

    def begin(self, keys: Sequence[str]) -> int:
        """Keep `keys` for a scan; return its cursor."""
        number = next(self._next)
        self._listings[number] = keys
        while len(self._listings) > 1 and (
            len(self._listings) > LISTINGS_MAX or sum(map(len, self._listings.values())) > LISTED_MAX
        ):
            self._listings.popitem(last=False)
        return number << _OFFSET_BITS

    def step(self, cursor: int, count: int) -> tuple[int, Sequence[str]]:
        """Return the cursor that follows `cursor`, 0 at the end, and the next `count` keys. InvalidOption."""
        number, offset = cursor >> _OFFSET_BITS, cursor & ((1 << _OFFSET_BITS) - 1)
        keys = self._listings.get(number)
        if keys is None:
            raise InvalidOption("the cursor is not known any more: begin again at 0")
        self._listings.move_to_end(number)
        some = keys[offset : offset + count]
        if offset + count < len(keys):
            return cursor + count, some
        del self._listings[number]
        return 0, some


class RedisConversation:
    """A `Conversation` in RESP."""

    def __init__(
        self,
        access: Access,
        listings: Listings,
        facts: Callable[[], Mapping[str, str | int]],
        *,
        allow_wipe: bool = False,
    ) -> None:
        self.access, self.listings, self.facts, self.allow_wipe = access, listings, facts, allow_wipe
        self.resp3 = False
        self.name = ""
        self.id = next(listings.ids)
        listings.clients[self.id] = self
        self._commands = Commands()
        self._commands.trusted = access.role > Role.NOTHING
        self._ended = False

    @property
    def amid(self) -> bool:
        return self._commands.amid

    def feed(self, data: bytes) -> list[Said | Asked]:
        found: list[Said | Asked] = []
        if self._ended:
            return found
        for words in self._commands.commands(data):
            found.append(meant := self._meant(words))
            if isinstance(meant, Said) and meant.ends:  # what follows is not read, nor is a token in it tried
                self._ended = True
                return found
            self._commands.trusted = self.access.role > Role.NOTHING
        if self._commands.broken:
            self._ended = True
            found.append(Said(resp.error(f"ERR Protocol error: {self._commands.broken}"), ends=True))
        return found

    def begins(self, data: bytes) -> Verb | None:
        verb = resp.begins(data)
        if verb is None or self._commands.amid or self._ended:
            return None
        return verb if self.access.role >= _ROLES[verb] else None

    @property
    def absent(self) -> bytes:
        return self.null()

    def plain(self, data: bytes) -> Plain | None:
        found = resp.plain(data)
        if found is None:
            return None
        keys, values = found
        return Plain(keys, values, self.null(), resp.gets(data) if values is None else [])

    def end(self) -> list[Said | Asked]:
        return []  # as Redis does: a command that is cut off is forgotten

    def error(self, why: str) -> bytes:
        return resp.error(f"ERR {why}")

    def null(self) -> bytes:
        return resp.NULL3 if self.resp3 else resp.NULL

    def bulk(self, value: bytes | None) -> bytes:
        return resp.bulk(value, resp3=self.resp3)

    def _meant(self, words: list[bytes]) -> Said | Asked:
        name, arguments = words[0].decode("utf-8", "replace").upper(), words[1:]
        spec = TABLE.get(name)
        if name in _OF_BROWSERS:
            return Said(resp.error("ERR this is no HTTP"), ends=True)
        if spec is None:
            begin = " ".join(repr(each.decode("utf-8", "replace"))[:128] for each in arguments[:8])
            return Said(resp.error(f"ERR unknown command '{name[:128]}', with args beginning with: {begin}"))
        if not spec.least <= len(arguments) <= spec.most:
            return Said(resp.error(f"ERR wrong number of arguments for '{name.lower()}' command"))
        if self.access.role < spec.role:
            why = self.access.refusal(spec.role, "")
            return Said(resp.error(f"NOPERM {why}" if why else "NOAUTH Authentication required."))
        try:
            return spec.meant(self, arguments)
        except Eau2Error as error:
            return Said(failure(error))


# -- of the connection ------------------------------------------------------------------------------------------------


def _ping(who: RedisConversation, arguments: list[bytes]) -> Said:
    return Said(who.bulk(arguments[0]) if arguments else resp.simple("PONG"))


def _echo(who: RedisConversation, arguments: list[bytes]) -> Said:
    return Said(who.bulk(arguments[0]))


def _auth(who: RedisConversation, arguments: list[bytes]) -> Said:
    if not who.access.has_tokens:
        raise InvalidOption("AUTH <password> called without any password configured for the default user")
    if who.access.identify(arguments[-1].decode("utf-8", "surrogateescape")):
        return Said(resp.OK)
    return Said(resp.error("WRONGPASS the token is not known here"))


def _hello(who: RedisConversation, arguments: list[bytes]) -> Said:
    rest = list(arguments)
    resp3 = who.resp3
    if rest:
        wanted = rest.pop(0)
        if wanted not in (b"2", b"3"):
            return Said(resp.error("NOPROTO unsupported protocol version"))
        resp3 = wanted == b"3"
    while rest:
        option = rest.pop(0).upper()
        if option == b"AUTH" and len(rest) >= 2:
            said = _auth(who, rest[:2]) if who.access.has_tokens else Said(resp.OK)
            if said.reply != resp.OK:
                return said
            del rest[:2]
        elif option == b"SETNAME" and rest:
            who.name = name_of(rest.pop(0))
        else:
            raise InvalidOption("Syntax error in HELLO option")
    if not who.access.role:
        return Said(resp.error("NOAUTH HELLO must be called with the client already authenticated"))
    who.resp3 = resp3
    bulk = who.bulk
    return Said(
        resp.mapping(
            {
                "server": bulk(b"eau2"),
                "version": bulk(str(who.facts()["eau2_version"]).encode()),
                "proto": resp.integer(3 if resp3 else 2),
                "id": resp.integer(who.id),
                "mode": bulk(b"standalone"),
                "role": bulk(b"master"),
                "modules": resp.array([]),
            },
            resp3=resp3,
        )
    )


def _client(who: RedisConversation, arguments: list[bytes]) -> Said:
    what, rest = arguments[0].upper(), arguments[1:]
    if what == b"SETNAME" and len(rest) == 1:
        who.name = name_of(rest[0])
        return Said(resp.OK)
    if what == b"SETINFO" and len(rest) == 2:
        return Said(resp.OK)  # what the client's library is called is not kept
    if what == b"GETNAME" and not rest:
        return Said(who.bulk(who.name.encode() if who.name else None))
    if what == b"ID" and not rest:
        return Said(resp.integer(who.id))
    if what == b"INFO" and not rest:
        return Said(who.bulk(_client_line(who)))
    if what == b"LIST" and not rest:
        clients = sorted(who.listings.clients.items())
        return Said(who.bulk(b"".join(_client_line(client) for _, client in clients)))
    return Said(resp.error("ERR unknown subcommand or wrong number of arguments for 'client'"))


def _client_line(client: RedisConversation) -> bytes:
    return f"id={client.id} name={client.name} db=0 resp={3 if client.resp3 else 2}\n".encode()


def _command(who: RedisConversation, arguments: list[bytes]) -> Said:
    what = arguments[0].upper() if arguments else b""
    if what == b"COUNT":
        return Said(resp.integer(len(TABLE)))
    if what == b"DOCS":
        return Said(resp.mapping({}, resp3=who.resp3))
    if what:
        return Said(resp.error("ERR unknown subcommand or wrong number of arguments for 'command'"))
    zeros = [resp.integer(0)] * 3
    rows = []
    for name, spec in TABLE.items():
        arity = spec.least + 1 if spec.least == spec.most else -(spec.least + 1)
        flags = resp.array([resp.simple("write" if spec.role >= Role.WRITE else "readonly")])
        rows.append(resp.array([who.bulk(name.lower().encode()), resp.integer(arity), flags, *zeros]))
    return Said(resp.array(rows))


def _info(who: RedisConversation, arguments: list[bytes]) -> Said:
    lines = [f"{name}:{value}" for name, value in {**who.facts(), "redis_mode": "standalone"}.items()]
    return Said(who.bulk("\r\n".join(["# Server", *lines, ""]).encode()))


def _select(who: RedisConversation, arguments: list[bytes]) -> Said:
    return Said(resp.OK if integer_of(arguments[0]) == 0 else resp.error("ERR DB index is out of range"))


def _quit(who: RedisConversation, arguments: list[bytes]) -> Said:
    return Said(resp.OK, ends=True)


def _wait(who: RedisConversation, arguments: list[bytes]) -> Said:
    integer_of(arguments[0]), integer_of(arguments[1])
    return Said(resp.integer(0))  # a write that is acknowledged is on all of its nodes; there are no replicas to ask


class _Meant(Protocol):
    def __call__(self, who: RedisConversation, arguments: list[bytes], /) -> Said | Asked: ...


class _Spec(NamedTuple):
    least: int  # arguments, without the name
    most: int
    role: Role
    meant: _Meant


_MANY = 1 << 20
_N, _R, _W = Role.NOTHING, Role.READ, Role.WRITE
TABLE: dict[str, _Spec] = {
    "APPEND": _Spec(2, 2, _W, keys.append),
    "AUTH": _Spec(1, 2, _N, _auth),
    "CLIENT": _Spec(1, _MANY, _R, _client),
    "COMMAND": _Spec(0, _MANY, _R, _command),
    "DBSIZE": _Spec(0, 0, _R, keys.dbsize),
    "DECR": _Spec(1, 1, _W, lambda who, given: keys.add(given, -1)),
    "DECRBY": _Spec(2, 2, _W, lambda who, given: keys.add(given, -integer_of(given[1]))),
    "DEL": _Spec(1, _MANY, _W, keys.delete),
    "ECHO": _Spec(1, 1, _R, _echo),
    "EXISTS": _Spec(1, _MANY, _R, keys.exists),
    "EXPIRE": _Spec(2, 4, _W, ends.expire(b"EX", "expire")),
    "EXPIREAT": _Spec(2, 4, _W, ends.expire(b"EXAT", "expireat")),
    "EXPIRETIME": _Spec(1, 1, _R, ends.left(1000, at=True)),
    "FLUSHDB": _Spec(0, 1, Role.ADMIN, keys.flushdb),
    "GET": _Spec(1, 1, _R, keys.get),
    "GETDEL": _Spec(1, 1, _W, keys.getdel),
    "GETRANGE": _Spec(3, 3, _R, keys.getrange),
    "GETSET": _Spec(2, 2, _W, keys.getset),
    "HELLO": _Spec(0, 7, _N, _hello),
    "INCR": _Spec(1, 1, _W, lambda who, given: keys.add(given, 1)),
    "INCRBY": _Spec(2, 2, _W, lambda who, given: keys.add(given, integer_of(given[1]))),
    "INFO": _Spec(0, _MANY, _R, _info),
    "KEYS": _Spec(1, 1, _R, keys.keys_),
    "MGET": _Spec(1, _MANY, _R, keys.mget),
    "MSET": _Spec(2, _MANY, _W, keys.mset),
    "MSETNX": _Spec(2, _MANY, _W, keys.msetnx),
    "PERSIST": _Spec(1, 1, _W, ends.persist),
    "PEXPIRE": _Spec(2, 4, _W, ends.expire(b"PX", "pexpire")),
    "PEXPIREAT": _Spec(2, 4, _W, ends.expire(b"PXAT", "pexpireat")),
    "PEXPIRETIME": _Spec(1, 1, _R, ends.left(1, at=True)),
    "PING": _Spec(0, 1, _R, _ping),
    "PSETEX": _Spec(3, 3, _W, keys.setex(b"PX")),
    "PTTL": _Spec(1, 1, _R, ends.left(1)),
    "QUIT": _Spec(0, _MANY, _N, _quit),
    "RENAME": _Spec(2, 2, _W, lambda who, given: keys.rename(who, given, over=True)),
    "RENAMENX": _Spec(2, 2, _W, lambda who, given: keys.rename(who, given, over=False)),
    "SCAN": _Spec(1, _MANY, _R, keys.scan),
    "SELECT": _Spec(1, 1, _R, _select),
    "SET": _Spec(2, _MANY, _W, keys.set_),
    "SETEX": _Spec(3, 3, _W, keys.setex(b"EX")),
    "SETNX": _Spec(2, 2, _W, keys.setnx),
    "STRLEN": _Spec(1, 1, _R, keys.strlen),
    "TTL": _Spec(1, 1, _R, ends.left(1000)),
    "TYPE": _Spec(1, 1, _R, keys.type_),
    "UNLINK": _Spec(1, _MANY, _W, keys.delete),
    "WAIT": _Spec(2, 2, _R, _wait),
}
