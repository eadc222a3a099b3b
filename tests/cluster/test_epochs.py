"""A directory of several nodes says what each node is, and why; that is kept with the view, and read by all."""

import json

import pytest
from tests.until import until

import eau2
from eau2.cluster.directory import ClusterNodes
from eau2.errors import Corrupt
from eau2.frame.tables import FrameTables
from eau2.query.engine import Engine
from eau2.store.store import Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


def opened(path, nodes=None):
    cluster = ClusterNodes(path, nodes=nodes, grace_seconds=0.0)
    return Store(cluster, FrameTables(Engine(None)), name="store"), cluster


def states(store):
    return {member.name: member.state for member in store.members()}


def whys(store):
    return [epoch.why for epoch in store.epochs()]


DIED_AND_BACK = [
    "the store was made with 3 nodes",
    "node-1 died: it was taken away",
    "node-1 came back: it was started again",
    "node-1 is up to date, and live",
    "everything has all its copies",
]


def test_a_node_dies_returns_and_is_live_again_and_all_of_that_is_kept(path):
    store, cluster = opened(path, 3)
    with store:
        made = store.epochs()[0].time
        assert [(one.state, one.since) for one in store.members()] == [("live", made)] * 3
        cluster.fail("node-1")
        assert states(store) == {"node-0": "live", "node-1": "dead", "node-2": "live"}
        dead = store.members()[1]
        assert dead.source == "the directory: node-1 died: it was taken away"
        assert dead.since == store.epochs()[1].time
        cluster.restore("node-1")
        until(lambda: whys(store)[-1] == "everything has all its copies")
        # The two that were left may have been found to have all copies before it came back.
        epochs = [each for each in store.epochs() if each.why != DIED_AND_BACK[-1]]
        assert [each.why for each in epochs] == DIED_AND_BACK[:-1]
        two, three = ("node-0", "node-2"), ("node-0", "node-1", "node-2")
        assert [each.members for each in epochs] == [three, two, two, three]
        said = store.members(), store.epochs()
        assert states(store) == dict.fromkeys(three, "live")
    with eau2.open(path) as again:
        assert (again.members(), again.epochs()) == said


def test_a_node_that_is_added_joins(path):
    opened(path, 2)[0].close()
    store, _ = opened(path, 3)
    with store:
        until(lambda: whys(store)[-1] == "everything has all its copies")
        assert whys(store)[1:-1] == ["node-2 was added", "node-2 is up to date, and live"]


@pytest.mark.parametrize("history", ["absent", "damaged"])
def test_a_directory_of_an_eau2_that_kept_no_history_begins_one_and_damage_is_said(path, history):
    opened(path, 2)[0].close()
    document = json.loads((path / "members.json").read_bytes())
    if history == "absent":
        del document["history"]
    else:
        document["history"] = {"epochs": [[1]]}
    (path / "members.json").write_text(json.dumps(document))
    store, cluster = opened(path)
    with store:
        if history == "damaged":
            with pytest.raises(Corrupt, match=r"members\.json is damaged"):
                store.epochs()
            return
        assert states(store) == {"node-0": "live", "node-1": "live"}
        cluster.fail("node-1")
        assert whys(store) == ["an eau2 that kept no history has made it", "node-1 died: it was taken away"]
        assert states(store) == {"node-0": "live", "node-1": "dead"}
        assert store.members()[0].since < store.epochs()[1].time
