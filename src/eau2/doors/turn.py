"""What all clients of a server ask in one turn of its event loop, if it is plain: read and put at once, in that thread.

To hand it to another thread costs more than the work: two threads of Python take turns, and each waits for the other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from eau2.doors import resp
from eau2.doors.log import log
from eau2.doors.redis_words import failure, key_of
from eau2.doors.work import Verb
from eau2.errors import Eau2Error, InvalidKey, OutcomeUnknown, StoreClosed, WrongKind
from eau2.store.expiry import bytes_of, until_of
from eau2.store.nodes import Kind

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from eau2.doors.connection import Connection
    from eau2.doors.deadlines import Deadlines
    from eau2.doors.keyspace import Keyspace
    from eau2.doors.work import Plain
    from eau2.store.here import Here
    from eau2.store.nodes import Entry

CACHE_BYTES_MAX = 64 << 20  # of keys and replies; then it begins anew
_ENTRY_BYTES = 150  # what the two cost besides
CACHED_BYTES_MAX = 16 << 10  # a reply
ONE_BYTES = 64  # what is longer may be several GETs, which others may ask too
TOGETHER_MAX = 64  # such
KEPT_PUTS_MAX = 64  # of one turn, that are kept for who reads: more are a load
READ_TOGETHER_MAX = 16  # values of one look-up, each of which may be large
READ_BYTES_MAX = 1 << 20  # in one turn, and of the replies to one client; what is larger is done elsewhere
WRITE_BYTES_MAX = 1 << 20
AWAITED_BYTES_MAX = WRITE_BYTES_MAX // 4  # that are said; then no more are waited for
MORE_SECONDS = 20e-6  # for which puts wait for another that is flushed with them; a flush takes 100 us and more
ALL_SECONDS = 1e-3  # for which the first waits, where others come all the time
_WRONG = failure(WrongKind(""))


class TooMuch(Exception):  # no error: a normal outcome
    """This is not done in the event loop's thread."""


class Turn:
    """Answers plain requests. For the event loop only.

    Keeps replies by what was `asked`, as long as nobody else writes: the store's generation says so. A request is done
    at a moment between its coming and its reply, so that the reads of one turn, of which no client has a put too, may
    all be done before the puts.
    """

    def __init__(self, store: Here, deadlines: Deadlines) -> None:
        self._store, self._deadlines = store, deadlines
        self._answered = store.tally()
        self._replies: dict[bytes, bytes] = {}  # of what was found to be plain, NULL where nothing is
        self._together: dict[bytes, tuple[bytes, int]] = {}  # of several GETs that came at once; and how many
        self._bytes = 0
        self._generation: int | None = None  # for which the replies are right

    def kept(self, data: bytes, absent: bytes) -> tuple[bytes, int] | None:
        """Return the reply to `data`, which begins with a GET, and to how many it is, where it is kept: nobody has
        begun to write since it was. 1 us."""
        together = self._together if len(data) > ONE_BYTES and absent == resp.NULL else None
        try:
            generation = self._store.generation()
            if generation is None or generation != self._generation:
                return None
            if together is not None and (found := together.get(data)) is not None:
                self._answered.keys += found[1]
                return found
            gets = resp.gets(data)
            found = _joined([*map(self._replies.__getitem__, gets)], absent), len(gets)
        except (KeyError, TooMuch, StoreClosed):
            return None
        if together is not None and len(data) + len(found[0]) <= CACHED_BYTES_MAX:
            if len(together) >= TOGETHER_MAX:
                together.clear()
            together[data] = found
        self._answered.keys += found[1]
        return found

    def read(self, asked: Sequence[Plain]) -> list[bytes]:
        """Return the replies to the reads `asked`. Errors of the store; TooMuch."""
        generation = self._store.generation()
        if generation is None or generation != self._generation or self._bytes > CACHE_BYTES_MAX:
            self._forget()
            self._generation = generation
        kept = self._replies.__getitem__
        answers: list[bytes] = []
        missed: list[int] = []
        for plain in asked:
            try:
                answers.append(_joined([*map(kept, plain.asked)], plain.absent))
            except KeyError:
                missed.append(len(answers))
                answers.append(b"")
        looked_up = self._fill(asked, answers, missed) if missed else 0
        self._answered.keys += sum(len(plain.keys) for plain in asked) - looked_up
        return answers

    def put(self, pairs: Mapping[bytes, bytes], count: int) -> None:
        """Put the `pairs`, which are what comes of `count` puts. StoreBusy, TooMuch and InvalidKey, and others of the
        whole: nothing was done."""
        if sum(map(len, pairs.values())) > WRITE_BYTES_MAX:
            raise TooMuch
        generation = self._store.generation()
        alone = self._store.put({key_of(key): value for key, value in pairs.items()})
        self._answered.keys += count - len(pairs)
        if alone and generation is not None:
            if generation != self._generation or self._bytes > CACHE_BYTES_MAX:
                self._forget()
            self._generation = generation + 1  # not a second look: another may have written since, after us
            self._together.clear()
            keeps = len(pairs) <= KEPT_PUTS_MAX
            for key, value in pairs.items() if keeps or self._replies else ():
                self._note_put(resp.bulk(key, resp3=False), value if keeps else None)

    # -- private ------------------------------------------------------------------------------------------------------

    def _fill(self, asked: Sequence[Plain], answers: list[bytes], missed: Sequence[int]) -> int:
        """Have the `answers` that were `missed`, for not all that is asked is kept; return how many keys were looked
        up. TooMuch."""
        replies = self._replies
        keys = {
            get: key
            for index in missed
            for get, key in zip(asked[index].asked, asked[index].keys, strict=True)
            if get not in replies
        }
        of_one_moment = not replies and len(keys) <= READ_TOGETHER_MAX
        others = self._fetch(keys)
        if not of_one_moment and (self._generation is None or self._store.generation() != self._generation):
            raise TooMuch  # what one client asks must not be answered out of its order
        for index in missed:
            plain = asked[index]
            answers[index] = _joined(
                [replies.get(get) or others.get(get, resp.NULL) for get in plain.asked], plain.absent
            )
        return len(keys)

    def _fetch(self, keys: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Have the replies for `keys`, by what was asked; return those that are not kept."""
        others: dict[bytes, bytes] = {}
        names: dict[str, bytes] = {}
        for get, key in keys.items():
            try:
                names[key_of(key)] = get
            except InvalidKey as error:
                others[get] = failure(error)
        ordered = list(names)
        size = 0
        for start in range(0, len(ordered), READ_TOGETHER_MAX):
            if size > READ_BYTES_MAX:
                raise TooMuch
            some = ordered[start : start + READ_TOGETHER_MAX]
            found = self._store.get_many(some)
            if len(found) < len(some):
                for name in some:
                    if name not in found:
                        self._keep(names[name], resp.NULL, others)
            for name, entry in found.items():
                get, (_, kind, payload) = names[name], entry
                length = len(payload)
                size += length
                if kind != Kind.BYTES:
                    self._add_other(others, name, get, entry)
                    continue
                self._keep(get, b"$%d\r\n%b\r\n" % (length, payload), others)
        return others

    def _forget(self) -> None:
        self._replies.clear()
        self._together.clear()
        self._bytes = 0

    def _note_put(self, get: bytes, value: bytes | None) -> None:
        """Keep the reply to what was just put, unless that is None: who puts often reads."""
        before = self._replies.pop(get, None)
        if before is not None:
            self._bytes -= len(get) + len(before) + _ENTRY_BYTES
        if value is not None and len(value) < CACHED_BYTES_MAX:
            self._replies[get] = reply = b"$%d\r\n%b\r\n" % (len(value), value)
            self._bytes += len(get) + len(reply) + _ENTRY_BYTES

    def _keep(self, get: bytes, reply: bytes, others: dict[bytes, bytes]) -> None:
        """Keep `reply`, or add it to the `others`."""
        if len(reply) > CACHED_BYTES_MAX or self._generation is None:
            others[get] = reply
        else:
            self._replies[get] = reply
            self._bytes += len(get) + len(reply) + _ENTRY_BYTES

    def _add_other(self, others: dict[bytes, bytes], name: str, get: bytes, entry: Entry) -> None:
        """Add the reply for what is no plain bytes; none for what has ended."""
        until = until_of(entry)
        if until is None:
            others[get] = _WRONG
            return
        self._deadlines.note(name, until)
        if until > self._deadlines.now():
            others[get] = resp.bulk(bytes_of(entry), resp3=False)


def _joined(replies: list[bytes], absent: bytes) -> bytes:
    # One client may ask for the same large value a thousand times.
    if len(replies) > 1 and sum(map(len, replies)) > READ_BYTES_MAX:
        raise TooMuch
    if absent != resp.NULL:
        replies = [absent if reply == resp.NULL else reply for reply in replies]
    return b"".join(replies)


class Turns:
    """Gathers what clients ask, and has it answered before the loop looks at their sockets again, or soon after.

    here: None where other processes must be asked; then nothing is gathered.
    """

    def __init__(
        self, here: Here | None, deadlines: Deadlines, keyspace: Keyspace, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._here, self._turn = here, None if here is None else Turn(here, deadlines)
        self.kept = (lambda data, absent: None) if self._turn is None else self._turn.kept
        self._keyspace, self._loop = keyspace, loop
        self._due = False  # `_answer` will be called
        self._reads: list[Connection] = []
        self._puts: list[Connection] = []
        self._put_bytes = 0  # that they have said
        self._told: set[int] = set()  # who were told at the last flush, and have not put since
        self._seen = 0  # so many had put when it was looked at last
        self._first = self._last = 0.0  # when the first and the last of them had come

    def gather(self, who: Connection, begins: Verb, size: int) -> bool:
        """Whether the `size` bytes that `who` has said, which begin so, will be looked at once all have said what they
        ask now.

        Not while the other thread has work: it may hold what we would wait for.
        """
        if self._turn is None or not self._keyspace.idle:
            return False
        if not self._due:
            self._due = True
            self._loop.call_soon(self._answer)
        if begins is Verb.PUT:
            self._puts.append(who)
            self._put_bytes += size
            self._told.discard(id(who))
        else:
            self._reads.append(who)
        return True

    def _answer(self) -> None:
        assert self._turn is not None
        assert self._here is not None
        self._due = False
        if self._reads:
            self._read(self._turn)
        if not self._puts:
            return
        if self._here.flushes and self._awaits_more():
            self._due = True
            self._loop.call_soon(self._answer)
            return
        self._put(self._turn, self._here)

    def _awaits_more(self) -> bool:
        """Whether some may put in a moment whose puts can share the flush: each flush has its price, and whoever comes
        during one needs the next."""
        count, now = len(self._puts), time.perf_counter()
        if not self._seen:
            self._first = now
        if count != self._seen:
            self._seen, self._last = count, now
        if not self._told or self._put_bytes >= AWAITED_BYTES_MAX:
            return False
        return now - self._last < MORE_SECONDS and now - self._first < ALL_SECONDS

    def _read(self, turn: Turn) -> None:
        who, self._reads = self._reads, []
        who, said, plain = _plain(who, [each.take() for each in who], puts=False)
        if not who:
            return
        counts = [len(each.keys) for each in plain]
        replies: list[bytes] = []
        failed = _failure(lambda: replies.extend(turn.read(plain)))
        if failed is None:
            _tell(who, counts, replies)
        else:
            _tell_failure(who, said, counts, failed)

    def _put(self, turn: Turn, here: Here) -> None:
        who, self._puts = self._puts, []
        self._seen = self._put_bytes = 0
        said = [each.take() for each in who]
        found = resp.sets(said)
        if found is not None:
            pairs, counts = dict(zip(*found, strict=True)), [1] * len(who)
        else:
            who, said, plain = _plain(who, said, puts=True)
            pairs, counts = {}, [len(each.keys) for each in plain]
            for each in plain:
                pairs.update(zip(each.keys, each.values or (), strict=True))
        if not who:
            return
        failed = _failure(lambda: turn.put(pairs, sum(counts)))
        if failed is None and here.flushes:
            failed = _failure(here.flush, again=False)
            self._told = {*map(id, who)}
        if failed is None:
            _tell(who, counts, [resp.OK * count for count in counts])
        else:
            _tell_failure(who, said, counts, failed)


def _plain(
    who: list[Connection], said: list[bytes], *, puts: bool
) -> tuple[list[Connection], list[bytes], list[Plain]]:
    """Return who has said what is plain, what they have said, and what that asks. The others are turned away."""
    found: list[tuple[Connection, bytes, Plain]] = []
    for each, data in zip(who, said, strict=True):
        plain = each.plain(data) if data else None
        if plain is not None and (plain.values is not None) == puts:
            found.append((each, data, plain))
        elif data:  # also what came after something that was gathered, and was done by itself
            _turn_away(each, data)
    return [each for each, *_ in found], [data for _, data, _ in found], [plain for *_, plain in found]


def _tell(who: list[Connection], counts: list[int], replies: list[bytes]) -> None:
    for each, count, reply in zip(who, counts, replies, strict=True):
        try:
            each.told(reply, count)
        except Exception as error:
            _let_go(each, error)


def _tell_failure(who: list[Connection], said: list[bytes], counts: list[int], failed: bytes) -> None:
    if failed:
        _tell(who, counts, [failed * count for count in counts])
        return
    for each, data in zip(who, said, strict=True):
        _turn_away(each, data)


def _turn_away(who: Connection, data: bytes) -> None:
    try:
        who.turned_away(data)
    except Exception as error:
        _let_go(who, error)


def _let_go(who: Connection, error: Exception) -> None:
    """Our own fault: what was asked with it is answered all the same."""
    log("failed", client=str(who), error=repr(error))
    who.abort()


def _failure(do: Callable[[], object], *, again: bool = True) -> bytes | None:
    """Do it; return what is said where that fails, None where it does not. Nothing where each is to be done by itself,
    if that may be done `again`: what one has wrong, or the store, is said to it alone."""
    try:
        do()
    except OutcomeUnknown as error:  # it must not be done again
        return failure(error)
    except (Eau2Error, TooMuch) as error:
        return b"" if again else failure(OutcomeUnknown(str(error)))
    except Exception as error:  # our own fault; whoever asked must not wait for ever
        log("failed", error=repr(error))
        return failure(OutcomeUnknown(f"internal failure: {type(error).__name__}"))
    return None
