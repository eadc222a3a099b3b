"""A store whose nodes do jobs as processes of their own would, over a transport that can lose, repeat and cut off."""

from concurrent.futures import Future, ThreadPoolExecutor

import eau2
from eau2.cluster.peer import Unreachable
from eau2.remote.crew import Crew
from eau2.remote.jobs import FarJobs
from eau2.remote.transport import Arriving
from eau2.remote.work import Work


class Lossy:
    """A Transport to jobs in this process. Nodes in `dead` never answer; of the others `losses` says for each call
    whether it is lost before it is done ("before") or after ("after")."""

    def __init__(self):
        self.works = {}
        self.dead = set()
        self.losses = lambda method: ""
        self.calls = []
        self.pool = ThreadPoolExecutor(16, thread_name_prefix="test-transport")

    def call(self, name, method, arguments, timeout_seconds):
        self.calls.append((name, method))
        loss = self.losses(method)
        future = Future()
        if name not in self.works or name in self.dead or loss == "before":
            future.set_result((None, Unreachable(name)))
        else:
            self.pool.submit(self._do, name, method, arguments, loss, future)
        return Arriving(name, future, timeout_seconds)

    def _do(self, name, method, arguments, loss, future):
        def finish(answer):
            if not future.done():
                future.set_result((None, Unreachable(name)) if loss == "after" or name in self.dead else answer)

        try:
            found = getattr(self.works[name], method)(*arguments[0])
        except Exception as error:
            finish((None, error))
            return
        if isinstance(found, Future):
            found.add_done_callback(lambda done: finish(done.result()))
        else:
            finish((found, None))


class Processes:
    """Has the nodes of a store in a directory do jobs, until `close`."""

    def __init__(self, store: eau2.Store, workers: int = 2):
        self.store, self.transport = store, Lossy()
        self.crews = {name: Crew(store.node.at(name), workers) for name in store.nodes}
        self.transport.works = {name: Work(name, {"map": crew.map}) for name, crew in self.crews.items()}
        store.node.jobs = FarJobs(self.transport)

    def kill(self, name: str) -> None:
        """Nobody hears of node `name` any more, and what ran there has ended."""
        self.transport.dead.add(name)
        self.transport.works[name].close()
        self.crews[name].close()
        self.store.node._members.fail(name)

    def close(self) -> None:
        self.store.node.jobs.close()
        for name, work in self.transport.works.items():
            work.close()
            self.crews[name].close()
        self.transport.pool.shutdown()
        self.store.close()
