"""What an eau2 client asks of a served store: the verbs of its node, and of the frames that it holds. See `served/`."""

from __future__ import annotations

import base64
from dataclasses import asdict, astuple
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from eau2.doors.log import log
from eau2.doors.tokens import Role
from eau2.errors import Eau2Error, InvalidOption, KeyMissing, QueryError, ValueTooLarge, WrongKind
from eau2.metrics.report import Metric
from eau2.served.wire import PROTOCOL, REPLY_BYTES, WRITE_BYTES_MAX, Header, described, message, schema_in
from eau2.store.arguments import check_keys, checked_prefix
from eau2.store.expiry import UNTIL
from eau2.store.nodes import Expect, Kind, Write
from eau2.store.store import VALUE_BYTES_MAX
from eau2.values.chunk import same_chunks
from eau2.values.key import check_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.doors.flight_sessions import Sessions
    from eau2.frame.frame import Frame
    from eau2.store.store import Store

    Reply = tuple[Header, bytes]
    Verb = Callable[[Header, memoryview], Iterator[Reply]]

_SENT = (Kind.BYTES, Kind.EXPIRING, Kind.DELETED)  # with their bytes in the call
_KEYS_TOGETHER = 10_000  # in one reply


class Actions:
    """The verbs by name. Thread-safe; they wait for the store."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self._store, self._sessions = store, sessions
        self._verbs: dict[str, tuple[Role, Verb]] = {
            "hello": (Role.READ, self._hello),
            "begin": (Role.READ, self._begin),
            "keep": (Role.READ, self._keep),
            "end": (Role.READ, self._end),
            "entries": (Role.READ, self._entries),
            "keys": (Role.READ, self._keys),
            "frames": (Role.READ, self._frames),
            "hold": (Role.READ, self._hold),
            "write": (Role.WRITE, self._write),
            "share": (Role.WRITE, self._share),
            "stage_query": (Role.WRITE, self._stage_query),
            "discard": (Role.WRITE, self._discard),
            "check": (Role.READ, self._check),
            "statistics": (Role.READ, self._statistics),
            "members": (Role.READ, self._members),
            "epochs": (Role.READ, self._epochs),
            "way_in": (Role.ADMIN, self._way_in),
            "rebalance": (Role.WRITE, self._rebalance),
            "reports": (Role.READ, self._reports),
            "publish": (Role.WRITE, self._publish),
        }

    def role(self, verb: str) -> Role:
        """Return the role that `verb` needs. InvalidOption when there is no such verb."""
        return self._known(verb)[0]

    def replies(self, verb: str, header: Header, payload: memoryview) -> Iterator[bytes]:
        """Yield the replies to `verb`, each with the generation of the store."""
        for said, data in self._known(verb)[1](header, payload):
            yield message({"generation": self._store.node.generation(), **said}, data)

    def query(self, session: object, asked: Any) -> Frame:
        """Return the lazy frame of a query over frames that `session` holds."""
        try:
            sources = {str(name): self._source(session, number) for name, number in asked["tables"].items()}
            if "sql" in asked:
                frame = self._store.tables.asked(str(asked["sql"]), sources)
            else:
                frame = self._store.tables.received(base64.b64decode(asked["plan"]), sources)
            limit = asked.get("limit")
            return frame if limit is None else frame.limit(int(limit))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, Eau2Error):
                raise
            raise QueryError(f"no query: {error!r:.200}") from None

    def _source(self, session: object, number: object) -> Any:
        return self._sessions.frame(session, number).source

    # -- private ------------------------------------------------------------------------------------------------------

    def _known(self, verb: str) -> tuple[Role, Verb]:
        found = self._verbs.get(verb)
        if found is None:
            raise InvalidOption(f"the server has no action 'eau2.{verb:.40}'", hint="is it of another version?")
        return found

    def _hello(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"protocol": PROTOCOL, "eau2": version("eau2"), "nodes": self._store.nodes}, b""

    def _begin(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"session": self._sessions.begin()}, b""

    def _keep(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        self._sessions.keep(header.get("session"), _listed(header, "released"))
        yield {}, b""

    def _end(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        self._sessions.end(header.get("session"))
        yield {}, b""

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _entries(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        keys = _listed(header, "keys")
        check_keys(keys)
        facts: list[tuple[str, int, int, int]] = []
        values: list[bytes] = []
        size = 0
        for key, (rank, kind, value) in self._store.node.get_many(keys).items():
            facts.append((key, rank, int(kind), len(value)))
            values.append(value)
            size += len(value)
            if size >= REPLY_BYTES or len(facts) >= _KEYS_TOGETHER:
                yield {"entries": facts}, b"".join(values)
                facts, values, size = [], [], 0
        yield {"entries": facts}, b"".join(values)

    def _keys(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        limit = header.get("limit")
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise InvalidOption(f"limit is a number from 0, not {limit!r:.40}")
        yield from _paged(self._store.node.keys(checked_prefix(header.get("prefix", "")), limit=limit))

    def _frames(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield from _paged(self._store.node.frames())

    def _write(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        """Each write is a key, a kind, a size or the token of what was staged, and what is expected."""
        if len(payload) > WRITE_BYTES_MAX:
            raise ValueTooLarge(f"{len(payload):,} bytes are over the limit of {WRITE_BYTES_MAX:,} for one call")
        writes: list[Write] = []
        start = 0
        try:
            for key, kind, what, expect in _listed(header, "writes"):
                check_key(key)
                wanted = _expected(expect)
                if kind == Kind.FRAME:
                    manifest, staged = self._sessions.take(header.get("session"), what)
                    writes.append(Write(key, Kind.FRAME, manifest, staged, wanted))
                elif kind in _SENT:
                    value = bytes(payload[start : start + what])
                    if len(value) != what or not _fits(kind, what):
                        raise InvalidOption(f"{key!r}: {what!r:.40} bytes were announced, {len(value):,} came")
                    start += what
                    writes.append(Write(key, Kind(kind), value, (), wanted))
                else:
                    raise InvalidOption(f"{key!r}: no kind of a value: {kind!r:.40}")
        except BaseException as error:
            self._store.node.discard([staged for write in writes for staged in write.chunks])
            if isinstance(error, (TypeError, ValueError)) and not isinstance(error, Eau2Error):
                raise InvalidOption(f"no list of writes: {error!r:.200}") from None
            raise
        outcomes = self._store.node.write(writes)
        self._store.tables.drop_stale(self._store.node)
        yield {"outcomes": [described(each) if isinstance(each, Eau2Error) else each for each in outcomes]}, b""

    # -- frames -------------------------------------------------------------------------------------------------------

    def _hold(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        """Hold the frame under a key, if it still has the chunks that the client knows of."""
        try:
            frame = self._store.frame(check_key(header.get("key", "")))
        except (KeyMissing, WrongKind):
            frame = None
        if frame is None or frame.source is None or same_chunks(frame.source.manifest.chunk_ids) != header.get("same"):
            yield {"gone": True}, b""
        else:
            yield {"held": self._sessions.hold(header.get("session"), frame)}, b""

    def _share(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        frame = self._sessions.frame(header.get("session"), header.get("held"))
        yield self._staged(header, frame)

    def _stage_query(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        """Stage an answer. Of a plan, which has no names, with the columns of `payload`, a schema."""
        frame = self.query(header.get("session"), header.get("query"))
        if not len(payload):
            yield self._staged(header, frame)
            return
        from eau2.distributed.query import conformed  # here: the engine takes 0.3 s to import

        schema = schema_in(payload)
        batches = (conformed(batch, schema) for batch in frame.batches())
        store, key, home = self._store, check_key(header.get("key", "")), str(header.get("home", ""))
        sent = store.tables.stage_batches(store.node, key, schema, batches, home)
        yield {"token": self._sessions.stage(header.get("session"), sent)}, b""

    def _staged(self, header: Header, frame: Frame) -> Reply:
        store = self._store
        home = str(header.get("home", ""))
        sent = store.tables.stage(store.node, check_key(header.get("key", "")), frame, None, home)
        return {"token": self._sessions.stage(header.get("session"), sent)}, b""

    def _discard(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        self._sessions.discard(header.get("session"), _listed(header, "tokens"))
        yield {}, b""

    # -- the store ----------------------------------------------------------------------------------------------------

    def _check(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"check": asdict(self._store.check())}, b""

    def _statistics(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"statistics": asdict(self._store.statistics())}, b""

    def _members(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"members": [asdict(each) for each in self._store.members()]}, b""

    def _epochs(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"epochs": [asdict(each) for each in self._store.epochs()]}, b""

    def _way_in(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        found = self._store.way_in()
        log("way in told", door="flight", head=found.head)
        yield {"way_in": asdict(found)}, b""

    def _rebalance(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"copies": self._store.rebalance()}, b""

    def _reports(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        yield {"reports": [astuple(report) for report in self._store.reports()]}, b""

    def _publish(self, header: Header, payload: memoryview) -> Iterator[Reply]:
        try:
            metrics = [Metric(*metric) for metric in _listed(header, "metrics")]
        except TypeError:
            raise InvalidOption("a metric is its name, value, unit, help and kind") from None
        self._store.node.publish(metrics, source=str(header.get("source", "")))
        yield {}, b""


def _listed(header: Header, name: str) -> list[Any]:
    found = header.get(name)
    if not isinstance(found, list):
        raise InvalidOption(f"{name} is a list, not {found!r:.40}")
    return found


def _fits(kind: int, size: int) -> bool:
    begins = UNTIL.size if kind == Kind.EXPIRING else 0
    return begins <= size <= begins + (0 if kind == Kind.DELETED else VALUE_BYTES_MAX)


def _expected(expect: object) -> int:
    if isinstance(expect, bool) or not isinstance(expect, int) or not Expect.PRESENT <= expect < 2**63:
        raise InvalidOption(f"no version is expected as {expect!r:.40}")
    return expect


def _paged(keys: list[str]) -> Iterator[Reply]:
    for start in range(0, max(1, len(keys)), _KEYS_TOGETHER):
        yield {"keys": keys[start : start + _KEYS_TOGETHER]}, b""
