"""The worker processes of a node, which run the tasks of maps: as many as the node has cores, one task each.

Maps take turns, task by task, so that each gets its share however many there are and however long their tasks take. A
process is used again as long as the same modules are asked for; one whose task is ended is killed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from concurrent.futures import BrokenExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eau2.errors import Eau2Error, NodeUnavailable
from eau2.query.crossing import MapOutcome, error_text, unpack
from eau2.query.placing import counted
from eau2.query.shipping import run_on_node, worker_pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from loky.process_executor import ProcessPoolExecutor

    from eau2.query.crossing import MapOrder, MapTask
    from eau2.query.modules import Modules
    from eau2.query.shipping import Rows
    from eau2.store.node import DirectoryNode
    from eau2.store.nodes import Staged

_LOOK_SECONDS = 60.0  # a bound on one wait; the loop around it waits on
_END_SECONDS = 2.0


class Crew:
    """The workers of `node`, made when first needed, ended by `close`. Thread-safe."""

    def __init__(self, node: DirectoryNode, count: int) -> None:
        self.node = node
        self.count = count
        self._changed = threading.Condition()  # guards everything below
        self._turns: deque[Map] = deque()  # maps that have tasks to do, the next in turn first
        self._workers: list[_Worker] = []
        self._closed = False

    def map(self, order: MapOrder, say: Callable[[Any], None]) -> Map:
        """Begin a map."""
        return Map(self, order, say)

    def wanted(self, mapping: Map) -> None:
        """`mapping` has a task to do."""
        with self._changed:
            if self._closed:
                return
            if mapping not in self._turns:
                self._turns.append(mapping)
            waiting = sum(each.waiting for each in self._turns)
            if len(self._workers) < self.count and waiting > sum(worker.idle for worker in self._workers):
                self._workers.append(_Worker(self))
            self._changed.notify()

    def next(self, worker: _Worker) -> tuple[Map, MapTask] | None:
        """Wait for a task; None at the end."""
        with self._changed:
            worker.idle = True
            while not self._closed:
                while self._turns:
                    mapping = self._turns.popleft()
                    if (task := mapping.pop()) is None:
                        continue
                    self._turns.append(mapping)
                    worker.idle = False
                    return mapping, task
                self._changed.wait(_LOOK_SECONDS)
            return None

    def drop(self, mapping: Map) -> None:
        """End the tasks of `mapping` that run."""
        with self._changed:
            workers = list(self._workers)
        for worker in workers:
            worker.kill(mapping)

    def close(self) -> None:
        """End all workers. Idempotent."""
        with self._changed:
            self._closed = True
            self._turns.clear()
            self._changed.notify_all()
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.thread.join(_END_SECONDS)


@dataclass(slots=True, eq=False)
class Map:
    """The job of a map on a node: what is to be done, and the chunk files that it reads. See `work.Working`."""

    crew: Crew
    order: MapOrder
    say: Callable[[Any], None]
    ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)  # guards what is below, and `ended`
    _waiting: deque[MapTask] = field(default_factory=deque)
    _staged: dict[str, tuple[Staged, int]] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        return self.crew.count

    @property
    def waiting(self) -> int:
        """How many tasks have not begun."""
        return len(self._waiting)

    def take(self, thing: MapTask) -> None:
        with self._lock:
            self._waiting.append(thing)
        self.crew.wanted(self)

    def pop(self) -> MapTask | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def path(self, task: MapTask) -> tuple[str, int]:
        """Return a path and the size of the task's chunk, verified; what is at the path stays until the map ends.

        FileNotFoundError when it is not on this node, Corrupt when it is damaged; DiskFull and others.
        """
        with self._lock:
            if self.ended:
                raise FileNotFoundError(2, "the map has ended", task.chunk_id)
            if task.chunk_id not in self._staged:
                # A link: the frame may be deleted meanwhile.
                (data,) = self.crew.node.map([task.chunk_id], key=task.key)
                self._staged[task.chunk_id] = self.crew.node.stage_again(task.chunk_id, data), data.size
            staged, size = self._staged[task.chunk_id]
            return staged.path, size

    def end(self) -> None:
        with self._lock:
            self.ended = True
            self._waiting.clear()
        self.crew.drop(self)
        with self._lock, contextlib.suppress(Eau2Error):  # the node was closed
            self.crew.node.discard([staged for staged, _ in self._staged.values()])
            self._staged.clear()


class _Worker:
    """A thread, and the process that runs its tasks."""

    def __init__(self, crew: Crew) -> None:
        self.idle = True  # the crew's
        self._crew = crew
        self._lock = threading.Lock()  # guards everything below
        self._mapping: Map | None = None  # whose task the process runs
        self._pool: ProcessPoolExecutor | None = None
        self._modules: Modules = ()
        self.thread = threading.Thread(target=self._run, name="eau2-crew", daemon=True)
        self.thread.start()

    def kill(self, mapping: Map | None = None) -> None:
        """End the process, whatever it does; with `mapping` only if it runs a task of that."""
        with self._lock:
            if mapping is not None and self._mapping is not mapping:
                return
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=True)

    def _run(self) -> None:
        while (found := self._crew.next(self)) is not None:
            mapping, task = found
            outcome = self._outcome(mapping, task)
            if not mapping.ended:
                mapping.say(outcome)
            del mapping, task, found, outcome
        self.kill()

    def _outcome(self, mapping: Map, task: MapTask) -> MapOutcome:
        try:
            path, size = mapping.path(task)
        except (FileNotFoundError, Eau2Error) as error:
            return MapOutcome(task.number, "absent", error)
        except Exception as error:  # too many open files, no memory: another node may have them
            return MapOutcome(task.number, "absent", self._unable("read", error))
        try:
            future = self._submit(mapping, path, task)
            while not future.done() and not mapping.ended:
                wait([future], _LOOK_SECONDS)
            is_done, found = future.result(0)
        except (BrokenExecutor, TimeoutError):  # or nobody waits for this any more
            self.kill()
            return MapOutcome(task.number, "ended", None)
        except Exception as error:  # no process was started: too many open files, no memory, /dev/shm is full
            with contextlib.suppress(OSError, RuntimeError):  # what has only half started may not end either
                self.kill()
            return MapOutcome(task.number, "absent", self._unable("run", error))
        finally:
            with self._lock:
                self._mapping = None
        self._crew.node.count_read(counted(task.part, size, task.chunk_rows, 1))
        return MapOutcome(task.number, "done" if is_done else "raised", found)

    def _submit(self, mapping: Map, path: str, task: MapTask) -> Future[Any]:
        modules = mapping.order.modules
        if modules != self._modules:
            self.kill()
        with self._lock:
            if mapping.ended:
                raise RuntimeError("the map has ended")
            if self._pool is None:
                self._pool, self._modules = worker_pool(1, modules), modules
            self._mapping = mapping
            future: Future[Any] = self._pool.submit(_run_with_text, path, task.part, mapping.order.task)
        return future

    def _unable(self, verb: str, error: Exception) -> NodeUnavailable:
        return NodeUnavailable(f"{self._crew.node.name} cannot {verb} it: {error_text(error)}")


def _run_with_text(path: str, rows: Rows, shipped: bytes) -> tuple[bool, Any]:
    """In a worker process: as `run_on_node`, with the text of what was raised: the caller may lack what its class needs
    to be made again, and this process had it."""
    is_done, found = run_on_node(path, rows, shipped)
    if is_done:
        return True, found
    try:
        text = error_text(unpack(found))
    except (Exception, SystemExit):  # it is made again only once
        text = ""
    return False, (found, text)
