"""What clients ask of keys, whatever protocol they speak, and what they are given to do it with."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from eau2.errors import Eau2Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Outcome = bytes | bool | int | Eau2Error | list[bytes | None] | list[str] | None


class View(Protocol):
    """The keys while one command runs: as they were read, with what earlier commands of the same moment changed."""

    def get(self, key: str) -> bytes | None:
        """Return the bytes under `key`, None where nothing is. WrongKind for a frame."""

    def has(self, key: str) -> bool:
        """Whether anything is under `key`."""

    def is_frame(self, key: str) -> bool:
        """Whether a frame is under `key`."""

    def put(self, key: str, value: bytes, *, until: int | None = None) -> None:
        """Let `value` be under `key`, whatever is there; until that moment, or for ever."""

    def until(self, key: str) -> int | None:
        """Return the end of what is under `key`, in ms since 1970; None where it has none, or nothing is there."""

    @property
    def now(self) -> int:
        """The moment, in ms since 1970. What ends by then is not there."""

    def expire(self, key: str) -> None:
        """Delete what is under `key` if its end has come."""

    def note_ends(self) -> None:
        """Remember of all keys that end when they do, if that can be found out."""

    def delete(self, key: str) -> bool:
        """Let nothing be under `key`; return whether anything was."""

    def discard(self, key: str) -> None:
        """Let nothing be under `key`, whatever is there."""

    def every_key(self) -> Sequence[str]:
        """Return all keys, sorted. Only for a command that runs alone."""

    def frames(self) -> Sequence[str]:
        """Return the keys of frames, sorted. Only for a command that runs `alone`."""


class Command(Protocol):
    """One request. It is run again from its beginning when others have changed what it read."""

    @property
    def reads(self) -> Sequence[str]:
        """The keys that it asks its view for: those that it only puts need not be read."""

    @property
    def alone(self) -> bool:
        """Whether it runs beside no others: it has not just one key."""

    @property
    def counts(self) -> bool:
        """Whether its outcome is how many of the keys it discards were there. It runs alone."""

    def run(self, view: View) -> Outcome:
        """Do it. May raise Eau2Error, and then nothing is changed."""


class Verb(StrEnum):
    """What is asked of a key, and what comes of it."""

    GET = "get"  # -> bytes, None where nothing is under the key; WrongKind for a frame
    PUT = "put"  # -> True
    CREATE = "create"  # -> True, or False where something is under the key
    UPDATE = "update"  # -> True, or False where nothing is
    DELETE = "delete"  # -> True, or False where nothing was


class Operation(NamedTuple):
    """One request of one key, which `check_key` has passed. A Command."""

    verb: Verb
    key: str
    value: bytes = b""

    @property
    def reads(self) -> Sequence[str]:
        return () if self.verb is Verb.PUT else (self.key,)

    @property
    def alone(self) -> bool:
        return False

    @property
    def counts(self) -> bool:
        return False

    def run(self, view: View) -> Outcome:
        verb, key, value = self
        if verb is Verb.GET:
            return view.get(key)
        if verb is Verb.DELETE:
            return view.delete(key)
        if verb is not Verb.PUT and view.has(key) != (verb is Verb.UPDATE):
            return False
        view.put(key, value)
        return True


class Wipe:
    """Delete all keys. A Command; its outcome is their number."""

    reads: Sequence[str] = ()
    alone = counts = True

    def run(self, view: View) -> Outcome:
        for key in view.every_key():
            view.discard(key)
        return 0


class Said(NamedTuple):
    """A request that is answered without the store."""

    reply: bytes
    ends: bool = False  # the connection, once this is sent


class Asked(NamedTuple):
    """A request for the store, and how its outcome is told."""

    command: Command
    answer: Callable[[Outcome], bytes]


class Plain(NamedTuple):
    """Requests of one client that came together, all to read or all to put, of one key each: of one it is the rule.

    Not yet looked at: a key may be none. What becomes of them is told as `bulk` does: `absent` where nothing is.
    """

    keys: Sequence[bytes]
    values: Sequence[bytes] | None  # None: to read
    absent: bytes
    asked: Sequence[bytes] = ()  # of reads, the keys as they came


class Conversation(Protocol):
    """One connection's protocol: bytes in, requests out, in order, however the bytes are cut. No sockets."""

    @property
    def amid(self) -> bool:
        """Whether a request has begun that has not ended."""

    def feed(self, data: bytes) -> list[Said | Asked]:
        """Return the requests that end in `data`."""

    def begins(self, data: bytes) -> Verb | None:
        """Return GET or PUT where `data` begins as what is `plain` does, nothing has begun that has not ended, and who
        asks may do that; else None, and then it is to be fed."""

    @property
    def absent(self) -> bytes:
        """What is said where a GET finds nothing."""

    def plain(self, data: bytes) -> Plain | None:
        """Return what `data`, which `begins` so, asks; None where that is not plain, and then it is to be fed."""

    def end(self) -> list[Said | Asked]:
        """Return what to answer when no more bytes come."""

    def error(self, why: str) -> bytes:
        """Return what is said to a client that is let go for `why`."""
