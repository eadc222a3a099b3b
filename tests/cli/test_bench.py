"""bench: a load on stores of several nodes, measured and proved."""

import pytest

from eau2.cluster.member import Member

pytestmark = pytest.mark.slow  # seconds of load each

KEYS = ["--keys", "200"]
SHORT = [*KEYS, "--seconds", "0.3"]


def long_enough(load, is_enough):
    """What `load(seconds)` returns, for so many that it `is_enough`: how much is done in a second is the machine's."""
    for seconds in ("0.3", "2", "10", "30"):
        if is_enough(found := load(seconds)):
            break
    return found


def test_a_load_on_one_node_and_on_three_that_die_loses_nothing(eau2, tmp_path):
    def load(seconds):
        return eau2("bench", "kv", "--nodes", "1,3", *KEYS, "--seconds", seconds, "--fail", "1.0", "--json").json

    one, three = long_enough(
        load, lambda found: found[1]["copied"]["keys"] and all(len(each["latency"]) == 4 for each in found)
    )
    assert (one["asked"]["clients"], three["asked"]["clients"]) == (1, 3)
    assert list(one["keys"]) == ["node-0"]
    assert list(three["keys"]) == ["node-0", "node-1", "node-2"]
    assert one["deaths"] == 0  # no copy to spare
    assert three["deaths"] >= 1
    assert three["copied"]["keys"] > 0
    for found in (one, three):
        assert found["keys_read"] == 200
        assert found["losses"] == found["faults"] == []
        assert set(found["latency"]) == {"create", "read", "update", "delete"}
        assert found["latency"]["read"]["p50"] <= found["latency"]["read"]["max"]
        assert sum(found["requests"].values()) >= sum(each["count"] for each in found["latency"].values())
    assert not list(tmp_path.iterdir())


def test_copies_are_counted_with_the_keys_of_a_node(eau2):
    (found,) = eau2("bench", "kv", "--nodes", "3", *SHORT, "--reads", "1", "--replicas", "3", "--json").json
    assert found["keys"] == {"node-0": 200, "node-1": 200, "node-2": 200}
    assert list(found["latency"]) == ["read"]


def test_the_tables_fit_80_columns_and_say_what_was_proved(eau2):
    ran = eau2("bench", "kv", "--nodes", "1,3", "--clients", "2", *SHORT, "--fail", "1.0")
    assert ran.code == 0
    lines = ran.text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:3] == ["nodes", "clients", "operations/s"]
    assert [line.split()[:2] for line in lines[1:3]] == [["1", "2"], ["3", "2"]]
    assert lines[-1] == "3 nodes: 200 keys read again: nothing acknowledged was lost"


def test_a_store_that_acknowledges_what_it_has_not_copied_is_found_out(eau2, monkeypatch):
    replicate = Member.replicate

    async def forget(member, epoch, sender, number, records, done):
        if number == 0:  # repair, which is not to be broken here
            await replicate(member, epoch, sender, number, records, done)

    monkeypatch.setattr(Member, "replicate", forget)
    ran = long_enough(
        lambda seconds: eau2("bench", "kv", "--nodes", "3", *KEYS, "--seconds", seconds, "--fail", "1.0"),
        lambda ran: ran.code == 3,
    )
    assert ran.code == 3
    assert "error: on 3 nodes, 'client-" in ran.error
    assert "was lost (on node-" in ran.error
    assert "✗ client-" in ran.text


@pytest.mark.parametrize(
    "options",
    [
        ["--nodes", "0"],
        ["--nodes", "1,x"],
        ["--clients", "none"],
        ["--seconds", "0"],
        ["--reads", "1.5"],
        ["--fail", "-1"],
        ["--value-bytes", "8"],
        ["--keys", "0"],
        ["--replicas", "0"],
    ],
)
def test_what_makes_no_sense_is_refused(eau2, options):
    ran = eau2("bench", "kv", *options)
    assert ran.code == 2
    assert "error: " in ran.error
