"""Nodes that are killed and frozen in the middle of queries, and callers that are: the same answer, and nothing left.

Each node is a process of its own.
"""

import threading

import pytest
from tests.distributed.comparing import difference
from tests.remote.clusters import ProcessCluster
from tests.remote.kept import kept_in, nothing_is_kept, rows_per_chunk
from tests.remote.test_queries import ENDLESS, GROUPS, JOIN, ROWS, all_sent, expected, frame_of  # noqa: F401  # fixture
from tests.until import SECONDS_MAX, until

import eau2.remote.chunks
from eau2.distributed.engine import DistributedEngine
from eau2.errors import NodeUnavailable

pytestmark = pytest.mark.slow
NAMES = ["node-0", "node-1", "node-2"]
CHUNKS = 9
QUERIES = [GROUPS, JOIN, "select count(*) as n, sum(id) as s from t where k < 50"]


@pytest.fixture
def cluster(processes, tmp_path):
    with ProcessCluster(processes, tmp_path, NAMES, grace_seconds=0.5) as cluster:
        yield cluster


@pytest.fixture
def store(cluster, monkeypatch):
    rows_per_chunk(monkeypatch, -(-ROWS // CHUNKS))
    with cluster.opener()() as store:
        store.put("t", frame_of(ROWS))
        yield store


class Asking:
    """A thread that asks one query after the other, until it is left, and knows which answers were wrong."""

    def __init__(self, store):
        self._store, self._ended = store, threading.Event()
        self._expected = {query: expected(query, t=frame_of(ROWS)) for query in QUERIES}
        self.answers, self.wrong = 0, []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._ended.is_set():
            query = QUERIES[self.answers % len(QUERIES)]
            try:
                if wrong := difference(self._store.sql(query).to_arrow(), self._expected[query]):
                    self.wrong.append(wrong)
            except Exception as error:
                self.wrong.append(error)
            self.answers += 1

    def more(self):
        """Return when each was answered twice more."""
        wanted = self.answers + 2 * len(QUERIES)
        until(lambda: self.answers >= wanted)

    def __enter__(self):
        self.more()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join(SECONDS_MAX)
        assert not self._thread.is_alive()


def test_queries_answer_as_ever_while_nodes_are_killed_and_come_back(cluster, store):
    with Asking(store) as asking:
        for name in NAMES:
            cluster.kill(name)
            asking.more()
            until(lambda: name not in store.nodes)  # noqa: B023
            asking.more()
            cluster.start(name)
            until(lambda: name in store.nodes and not store.node.view.fell)  # noqa: B023
            asking.more()
    assert asking.wrong == []
    nothing_is_kept(cluster.folder)


def test_queries_answer_as_ever_while_a_node_is_frozen(cluster, store):
    with Asking(store) as asking:
        cluster.freeze("node-1")
        asking.more()
        cluster.thaw("node-1")
        asking.more()
    assert asking.wrong == []
    nothing_is_kept(cluster.folder)


def ask_for_ever(opener):
    DistributedEngine.__init__.__kwdefaults__["here_bytes_max"] = 0
    with opener() as store:
        store.sql(ENDLESS).to_arrow()


def working(cluster):
    """The nodes that have something of a query."""
    return {name for name in NAMES if kept_in(cluster.folder / name)}


def test_a_query_ends_with_its_caller(cluster, store, processes):
    caller = processes.Process(target=ask_for_ever, args=(cluster.opener(),))
    caller.start()
    until(lambda: working(cluster) == set(NAMES))
    caller.kill()
    caller.join(SECONDS_MAX)
    until(lambda: working(cluster) == set())
    assert difference(store.sql(JOIN).to_arrow(), expected(JOIN, t=frame_of(ROWS))) == ""


def test_what_a_killed_node_has_kept_goes_when_it_starts_again(cluster, processes):
    with cluster.opener()() as store:
        store.put("t", frame_of(ROWS))
        caller = processes.Process(target=ask_for_ever, args=(cluster.opener(),))
        caller.start()
        until(lambda: working(cluster))
        (name, *_) = working(cluster)
        cluster.kill(name)
        caller.kill()
        caller.join(SECONDS_MAX)
        assert kept_in(cluster.folder / name)
        cluster.start(name)
        assert not kept_in(cluster.folder / name)


def test_when_no_copy_of_a_chunk_is_left_the_error_names_node_key_and_chunk(processes, tmp_path, monkeypatch):
    """The driver is on another machine, as far as it can tell."""
    monkeypatch.setattr(eau2.remote.chunks, "boot_id", lambda: "another machine")
    rows_per_chunk(monkeypatch, -(-ROWS // CHUNKS))
    with ProcessCluster(processes, tmp_path, NAMES, replicas=1) as cluster, cluster.opener()() as store:
        store.put("t", frame_of(ROWS))
        source = store.frame("t").source
        assert "node-1" in source.places
        frame = store.sql("select sum(v) as s from t")
        cluster.kill("node-1")
        with pytest.raises(NodeUnavailable) as caught:
            frame.to_arrow()
    lost = [chunk for chunk, place in zip(source.manifest.chunk_ids, source.places, strict=True) if place == "node-1"]
    assert "'t'" in str(caught.value)
    assert "node-1" in str(caught.value)
    assert any(chunk in str(caught.value) for chunk in lost)
