"""A run goes down the tree from one place, the caller's or a node's, and what comes of it goes up."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from eau2.errors import Eau2Error, NodeUnavailable, NotAllowed
from eau2.fleet.run import Cancel, Ended, Finished, Order, Output, Part, Push, Withdrawn
from eau2.fleet.tree import Relay
from eau2.query.crossing import error_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.fleet.files import Parts
    from eau2.fleet.run import Said, State
    from eau2.fleet.tree import Branch
    from eau2.store.jobs import Job, Jobs

KIND = "run"  # of the jobs
_ROOM = 256  # things, of 64 KiB at most, that wait to be passed on; what comes meanwhile may be as many again
_CANCEL_SECONDS = 0.4  # the caller may be about to end
_WAIT_SECONDS = 1.0  # a bound on one wait; the loop around it waits on


class Mailbox:
    """What is to go up from here, in order. Thread-safe.

    Who hears nodes puts it in without waiting: a node that is not asked what it has to say takes its caller for dead.
    So they are asked for no more than there is `room` for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards everything below
        self._things: deque[Output | Ended | None] = deque()
        self._closed = False

    def put(self, thing: Output | Ended | None) -> None:
        """Put it in; None has `get` return at once."""
        with self._changed:
            if not self._closed:
                self._things.append(thing)
            self._changed.notify_all()

    def put_patiently(self, thing: Output | Ended) -> None:
        """Put it in when there is room, or it is closed."""
        with self._changed:
            while len(self._things) >= _ROOM and not self._closed:
                self._changed.wait(_WAIT_SECONDS)
        self.put(thing)

    def get(self, seconds: float) -> Output | Ended | None:
        """Return the next; None when there is none within `seconds`, or something other has changed."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._things and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            self._changed.notify_all()
            return self._things.popleft() if self._things else None

    def room(self) -> int:
        return max(0, _ROOM - len(self._things))

    def close(self) -> None:
        """Have nobody wait, and nothing put in any more. Idempotent."""
        with self._changed:
            self._closed = True
            self._things.clear()
            self._changed.notify_all()


class Spreading:
    """Has the nodes below do a run, as `order` says. Thread-safe.

    What they say goes into `mailbox`, and once for each node what came of it; when that is known of all, `done` is set.
    parts: of the files that are pushed.
    """

    def __init__(self, jobs: Jobs, order: Order, mailbox: Mailbox, parts: Parts | None = None) -> None:
        self.mailbox = mailbox
        self.done = threading.Event()
        self._jobs, self._run, self._parts = jobs, order.run, parts
        self._lock = threading.Lock()  # guards everything below
        self._relay = Relay(order.below)
        self._children: dict[str, Job] = {}
        self._cancelled = order.cancelled
        self._over = False

    def begin(self) -> None:
        """Ask the first of them. Not waited for."""
        with self._lock:
            self._look()
        self._ask(self._relay.begin())

    def cancel(self) -> None:
        """Have it ended everywhere, and begun nowhere any more. Waits a little, for the messages to be on their way."""
        with self._lock:
            self._cancelled = True
            children = list(self._children.values())
        telling = [
            threading.Thread(target=_tell, args=(child, Cancel()), name="eau2-cancelling", daemon=True)
            for child in children
        ]
        for thread in telling:
            thread.start()
        deadline = time.monotonic() + _CANCEL_SECONDS
        for thread in telling:
            thread.join(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """Hear nothing more. What runs below goes on for some seconds, for whoever asks there next. Idempotent."""
        with self._lock:
            self._over = True
            children, self._children = list(self._children.values()), {}
        for child in children:
            child.end()

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, branches: Sequence[Branch]) -> None:
        for branch in branches:  # a thread for each: one that does not answer holds up no other
            threading.Thread(target=self._ask_one, args=(branch,), name="eau2-spreading", daemon=True).start()

    def _ask_one(self, branch: Branch) -> None:
        try:
            with self._lock:
                order = Order(self._run, branch.below, self._cancelled)
            child = self._jobs.begin(branch.name, KIND, order, _Ear(self, branch.name))
            with self._lock:
                is_over = self._over or not self._relay.is_asked(branch.name)  # it may have said all by now
                if not is_over:
                    self._children[branch.name] = child
                is_late = self._cancelled and not order.cancelled
            if is_late:
                child.tell(Cancel())
            if is_over:
                child.end()
                return
            self._feed(child)
        except Eau2Error as error:
            self.lose(branch.name, error)
        except Exception as error:  # whatever it is: those below are not to wait for it for ever
            self.lose(branch.name, NodeUnavailable(f"{branch.name} cannot do it: {error_text(error)}"))

    def _feed(self, child: Job) -> None:
        """Give `child` the files, part by part, as they come."""
        if self._parts is None or not isinstance(self._run.work, Push):
            return
        for number in range(self._run.work.parts):
            data = self._parts.part(number)
            if data is None or self._over:
                return
            child.tell(Part(number, data))

    # -- hearing ------------------------------------------------------------------------------------------------------

    def hear(self, name: str, said: Said) -> None:
        """`name`, which was asked, says something."""
        match said:
            case Output():
                self.mailbox.put(said)
            case Ended():
                with self._lock:
                    self._learn(said)
                    self._look()
            case Finished() | Withdrawn():
                self._go_on_without(name)

    def lose(self, name: str, error: Eau2Error) -> None:
        """Nothing more is heard of `name`, which was asked."""
        state: State = "refused" if isinstance(error, NotAllowed) else "lost"
        self._go_on_without(name, Ended(name, state, why=error.message))

    def _go_on_without(self, name: str, ended: Ended | None = None) -> None:
        """Ask those below `name` that nothing is known of. ended: what came of it, unless that is known better."""
        with self._lock:
            if self._over or not self._relay.is_asked(name):
                return
            child = self._children.pop(name, None)
            if ended is not None:
                self._learn(ended)
            branches = self._relay.lost(name)
            self._look()
        if child is not None:
            child.end()
        self._ask(branches)

    def _learn(self, ended: Ended) -> None:
        if self._relay.heard(ended.node):
            self.mailbox.put(ended)

    def _look(self) -> None:
        if self._relay.is_done and not self.done.is_set():
            self.done.set()
            self.mailbox.put(None)


class _Ear:
    """See `Ear`."""

    def __init__(self, spreading: Spreading, name: str) -> None:
        self._spreading, self._name = spreading, name

    def hear(self, told: Said) -> None:
        self._spreading.hear(self._name, told)

    def lost(self, error: Eau2Error) -> None:
        self._spreading.lose(self._name, error)

    def room(self) -> int:
        return self._spreading.mailbox.room()


def _tell(child: Job, thing: object) -> None:
    try:
        child.tell(thing)
    except Eau2Error:  # it is lost: whoever hears of that goes on
        return
