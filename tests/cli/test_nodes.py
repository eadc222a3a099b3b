"""`eau2 nodes` of a store that is no cluster on Ray: what each node is, and why."""

import eau2 as library
from eau2.cluster.directory import ClusterNodes


def test_the_nodes_of_a_directory_are_listed_with_their_state_and_what_they_have(eau2):
    with library.open("store", nodes=3) as store:
        store.put("k", b"v")
    listed = eau2("nodes", "--store", "store", "--json")
    assert listed.code == 0
    assert [(node["name"], node["state"], node["trouble"]) for node in listed.json] == [
        (f"node-{number}", "live", "") for number in range(3)
    ]
    assert all(node["since"] > 1e9 and node["source"].startswith("the directory: ") for node in listed.json)
    lines = eau2("nodes", "--store", "store").text.splitlines()
    assert lines[0].split() == ["node", "machine", "state", "since", "keys", "chunks", "bytes"]
    assert [line.split()[:2] for line in lines[1:]] == [[f"node-{number}", "live"] for number in range(3)]


def test_a_node_that_takes_no_part_is_exit_1_and_the_history_says_why(eau2, monkeypatch):
    nodes = ClusterNodes("store", nodes=3)
    nodes.fail("node-1")
    monkeypatch.setenv("EAU2_STORE", "store")
    try:
        listed = eau2("nodes", "--store", "store", "--history", "--json").json
        assert [change["why"] for change in listed][:2] == [
            "the store was made with 3 nodes",
            "node-1 died: it was taken away",
        ]
        assert listed[1]["members"] == ["node-0", "node-2"]
    finally:
        nodes.close()


def test_a_store_of_one_node_has_one_epoch(eau2):
    with library.open("store"):
        pass
    (epoch,) = eau2("nodes", "--store", "store", "--history", "--json").json
    assert (epoch["epoch"], epoch["members"], epoch["why"]) == (1, ["node-0"], "the store was made with 1 node")
    assert eau2("nodes", "--store", "none").code == 1
