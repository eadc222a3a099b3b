"""What a server keeps for its eau2 clients: frames that they hold, and frames that they have sent and not yet named."""

from __future__ import annotations

import itertools
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from eau2.errors import Eau2Error, InvalidOption, StoreBusy
from eau2.served.wire import LEASE_SECONDS, SessionGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from eau2.frame.frame import Frame
    from eau2.store.nodes import Node, Staged

    Sent = tuple[bytes, tuple[Staged, ...]]  # a manifest, and the chunks that it names

SESSIONS_MAX = 10_000
HELD_MAX = 100_000  # frames of one client
STAGED_MAX = 10_000  # likewise

Thing = TypeVar("Thing")


@dataclass(slots=True)
class _Session:
    seen: float  # when the client was heard of last
    frames: dict[int, Frame] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)


class Sessions:
    """The sessions of one server. What was not heard of for LEASE_SECONDS goes, with all it has. Thread-safe."""

    def __init__(self, node: Node, now: Callable[[], float]) -> None:
        self._node, self._now = node, now
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the line below
        self._sessions: dict[str, _Session] = {}

    def begin(self) -> str:
        """Begin a session; return its name, which nobody can guess. StoreBusy when there are SESSIONS_MAX."""
        with self._lock:
            if len(self._sessions) >= SESSIONS_MAX:
                raise StoreBusy(f"the server has {SESSIONS_MAX:,} clients that hold frames", hint="try again later")
            name = secrets.token_hex(16)
            self._sessions[name] = _Session(self._now())
        return name

    def keep(self, name: object, released: Iterable[object]) -> None:
        """Hear of a session, which holds the frames `released` no more. SessionGone."""
        with self._lock:
            session = self._session(name)
            gone = [session.frames.pop(number, None) for number in released if isinstance(number, int)]
        del gone  # not under the lock: letting go of a frame unmaps files

    def end(self, name: object) -> None:
        """Let go of all that a session has. May be called again."""
        with self._lock:
            session = self._sessions.pop(name, None) if isinstance(name, str) else None
        if session is not None:
            self._forget(session)

    def hold(self, name: object, frame: Frame) -> int:
        """Hold `frame` for a session; return the number by which it is asked for. SessionGone, StoreBusy."""
        with self._lock:
            session = self._session(name)
            if len(session.frames) >= HELD_MAX:
                raise StoreBusy(f"the client holds {HELD_MAX:,} frames", hint="let go of some")
            number = next(self._numbers)
            session.frames[number] = frame
        return number

    def frame(self, name: object, number: object) -> Frame:
        """Return a frame that is held. SessionGone, InvalidOption."""
        with self._lock:
            return _known(self._session(name).frames, number, "no frame")

    def stage(self, name: object, sent: Sent) -> str:
        """Keep what a client has sent until it is written; return its name. SessionGone, StoreBusy."""
        try:
            with self._lock:
                session = self._session(name)
                if len(session.sent) >= STAGED_MAX:
                    raise StoreBusy(f"the client has sent {STAGED_MAX:,} frames and named none", hint="name some")
                token = secrets.token_hex(8)
                session.sent[token] = sent
        except BaseException:
            self._node.discard(sent[1])
            raise
        return token

    def take(self, name: object, token: object) -> Sent:
        """Return what was staged as `token`, which is kept no more. SessionGone, InvalidOption."""
        with self._lock:
            session = self._session(name)
            found = _known(session.sent, token, "nothing was sent")
            del session.sent[str(token)]
        return found

    def discard(self, name: object, tokens: Iterable[object]) -> None:
        """Remove what was staged and will not be written."""
        for token in tokens:
            try:
                _, staged = self.take(name, token)
            except (InvalidOption, SessionGone):
                continue
            self._node.discard(staged)

    def look(self) -> None:
        """Let go of sessions that were not heard of for LEASE_SECONDS."""
        late = self._now() - LEASE_SECONDS
        with self._lock:
            gone = [name for name, session in self._sessions.items() if session.seen < late]
        for name in gone:
            self.end(name)

    def close(self) -> None:
        with self._lock:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            self._forget(session)

    # -- private ------------------------------------------------------------------------------------------------------

    def _session(self, name: object) -> _Session:
        session = self._sessions.get(name) if isinstance(name, str) else None
        if session is None:
            raise SessionGone("the server does not know this session", hint="it was started again; get the frame again")
        session.seen = self._now()
        return session

    def _forget(self, session: _Session) -> None:
        for _, staged in session.sent.values():
            try:
                self._node.discard(staged)
            except Eau2Error:  # closed, or cut off: what nobody names is swept
                continue


def _known(things: Mapping[Any, Thing], name: object, what: str) -> Thing:
    found = things.get(name) if isinstance(name, (int, str)) else None
    if found is None:
        raise InvalidOption(f"{what} under {name!r:.40} in this session")
    return found
