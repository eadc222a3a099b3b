"""What all clients of a server ask in one turn of its event loop, if it is plain: read and put at once, in that thread.

To hand it to another thread costs more than the work: two threads of Python take turns, and each waits for the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eau2.doors import resp
from eau2.doors.log import log
from eau2.doors.redis_words import failure, key_of
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

    _Gathered = tuple[Connection, Plain]

CACHE_BYTES_MAX = 64 << 20  # of keys and replies; then it begins anew
_ENTRY_BYTES = 150  # what the two cost besides
CACHED_BYTES_MAX = 16 << 10  # a reply
READ_TOGETHER_MAX = 16  # values of one look-up, each of which may be large
READ_BYTES_MAX = 1 << 20  # in one turn, and of the replies to one client; what is larger is done elsewhere
WRITE_BYTES_MAX = 1 << 20
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
        self._bytes = 0
        self._generation: int | None = None  # for which the replies are right

    def kept(self, gets: Sequence[bytes], absent: bytes) -> bytes | None:
        """Return the reply to `gets` of some `Conversation`, where it is kept: nobody has begun to write since it was.
        1 us."""
        try:
            generation = self._store.generation()
            if generation is None or generation != self._generation:
                return None
            reply = _joined([*map(self._replies.__getitem__, gets)], absent)
        except (KeyError, TooMuch, StoreClosed):
            return None
        self._answered.keys += len(gets)
        return reply

    def read(self, asked: Sequence[Plain]) -> list[bytes]:
        """Return the replies to the reads `asked`. Errors of the store; TooMuch."""
        generation = self._store.generation()
        if generation is None or generation != self._generation or self._bytes > CACHE_BYTES_MAX:
            self._replies.clear()
            self._bytes = 0
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

    def put(self, asked: Sequence[Plain]) -> list[bytes]:
        """Do the puts `asked`; return the replies. StoreBusy, TooMuch and InvalidKey, and others of the whole: nothing
        was done."""
        pairs: dict[bytes, bytes] = {}
        for keys, values, *_ in asked:
            if len(keys) == 1 and values:  # as usual, and a quarter of what the next costs
                pairs[keys[0]] = values[0]
            else:
                pairs.update(zip(keys, values or (), strict=True))
        if sum(map(len, pairs.values())) > WRITE_BYTES_MAX:
            raise TooMuch
        generation = self._store.generation()
        alone = self._store.put({key_of(key): value for key, value in pairs.items()})
        self._answered.keys += sum(len(plain.keys) for plain in asked) - len(pairs)
        if alone and generation is not None and generation == self._generation:
            self._generation = generation + 1  # not a second look: another may have written since, after us
            for key in pairs if self._replies else ():
                self._replies.pop(resp.bulk(key, resp3=False), None)
        return [resp.OK * len(plain.keys) for plain in asked]

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
    """Gathers what clients ask, and has it answered before the loop looks at their sockets again.

    here: None where other processes must be asked; then nothing is gathered.
    """

    def __init__(
        self, here: Here | None, deadlines: Deadlines, keyspace: Keyspace, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._here, self._turn = here, None if here is None else Turn(here, deadlines)
        self.kept = (lambda gets, absent: None) if self._turn is None else self._turn.kept
        self._keyspace, self._loop = keyspace, loop
        self._gathered: list[_Gathered] = []
        self._flushing = False  # some wait for the medium; others begin when it is done

    def gather(self, who: Connection, plain: Plain) -> bool:
        """Whether `who` will be told what comes of `plain`, or is turned away, once all have said what they ask now.

        Not while the other thread has work: it may hold what we would wait for.
        """
        if self._turn is None or not self._keyspace.idle:
            return False
        if not self._gathered and not self._flushing:
            self._loop.call_soon(self._answer)
        self._gathered.append((who, plain))
        return True

    def _answer(self) -> None:
        assert self._turn is not None
        assert self._here is not None
        gathered, self._gathered = self._gathered, []
        reads = [each for each in gathered if each[1].values is None]
        puts = [each for each in gathered if each[1].values is not None]
        if reads:
            _tell(reads, self._done(self._turn.read, reads))
        if not puts:
            return
        replies = self._done(self._turn.put, puts)
        if replies is not None and self._here.flushes:
            # The medium is written to while the loop takes what has been said in the meantime.
            self._flushing = True
            self._loop.call_soon(self._flush, puts, replies)
        else:
            _tell(puts, replies)

    def _flush(self, puts: list[_Gathered], replies: list[bytes]) -> None:
        def flushed(_: list[Plain]) -> list[bytes]:
            assert self._here is not None
            self._here.flush()
            return replies

        _tell(puts, self._done(flushed, puts))
        self._flushing = False
        if self._gathered:  # those who have been told now may join
            self._loop.call_soon(self._answer)

    def _done(self, do: Callable[[list[Plain]], list[bytes]], some: list[_Gathered]) -> list[bytes] | None:
        """Return the replies of `do` to `some`; None where each is to be done by itself: what one has wrong, or the
        store, is said to it alone."""
        try:
            return do([plain for _, plain in some])
        except OutcomeUnknown as error:  # it must not be done again
            refused = failure(error)
        except (Eau2Error, TooMuch):
            return None
        except Exception as error:  # our own fault; whoever asked must not wait for ever
            log("failed", error=repr(error))
            refused = failure(OutcomeUnknown(f"internal failure: {type(error).__name__}"))
        return [refused * len(plain.keys) for _, plain in some]


def _tell(some: list[_Gathered], replies: list[bytes] | None) -> None:
    if replies is None:
        for who, plain in some:
            who.turned_away(plain)
        return
    for (who, _), reply in zip(some, replies, strict=True):
        who.told(reply)
