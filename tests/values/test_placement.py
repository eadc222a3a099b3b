import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from eau2.values.placement import SLOTS, Placement, slot_of

FIVE = ("node-0", "node-1", "node-2", "node-3", "node-4")
THOUSAND = tuple(f"node-{number}" for number in range(1000))

# Written down once: data that is on disks was placed so. Never change them; a new placement needs a new format.
SLOT = {"trips": 46193, "config": 178505, "é": 68787, "a/b/c": 140647, "linus/found": 51352}
KEYS_ON_FIVE = {
    "trips": ("node-3", "node-2", "node-0"),
    "config": ("node-0", "node-4", "node-3"),
    "é": ("node-3", "node-1", "node-4"),
    "a/b/c": ("node-0", "node-4", "node-2"),
    "linus/found": ("node-4", "node-2", "node-0"),
}
KEYS_ON_THOUSAND = {
    "trips": ("node-654", "node-727"),
    "config": ("node-492", "node-649"),
    "é": ("node-79", "node-311"),
}
CHUNKS_ON_FIVE = {
    "00000000000000000000000000000000": ("node-4", "node-0", "node-3"),
    "0123456789abcdef0123456789abcdef": ("node-2", "node-1", "node-3"),
    "ffffffffffffffffffffffffffffffff": ("node-3", "node-0", "node-4"),
}
RING_ON_FIVE = [  # for a key whose homes are node-1 and node-4
    *(("node-1", "node-4"), ("node-2", "node-0"), ("node-3", "node-1"), ("node-4", "node-2"), ("node-0", "node-3")),
    *(("node-1", "node-0"), ("node-2", "node-1"), ("node-3", "node-2"), ("node-4", "node-3"), ("node-0", "node-4")),
    *(("node-1", "node-2"), ("node-2", "node-3")),
]

names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)
keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
chunk_ids = st.integers(0, 2**128 - 1).map("{:032x}".format)


def mixed(value):
    """The finalizer of splitmix64, as its author wrote it."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


def hashed(text):
    return xxhash.xxh3_64_intdigest(text.encode())


def rendezvous(subject, ordered):
    """All of `ordered`, which are in the order of the ring, by weight: one at a time, in plain numbers."""
    weights = [(mixed(subject ^ hashed(name)) >> 16, position) for position, name in enumerate(ordered)]
    return tuple(ordered[position] for _, position in sorted(weights, reverse=True))


def test_slots_never_change():
    assert SLOTS == 2**18
    assert {key: slot_of(key) for key in SLOT} == SLOT


def test_homes_never_change():
    five, thousand = Placement(FIVE), Placement(THOUSAND)
    assert {key: five.homes_of_key(key, 3) for key in KEYS_ON_FIVE} == KEYS_ON_FIVE
    assert {key: thousand.homes_of_key(key, 2) for key in KEYS_ON_THOUSAND} == KEYS_ON_THOUSAND
    assert {chunk: five.homes_of_chunk(chunk, (), 3) for chunk in CHUNKS_ON_FIVE} == CHUNKS_ON_FIVE
    assert thousand.homes_of_chunk("0123456789abcdef0123456789abcdef", (), 2) == ("node-304", "node-279")
    assert [five.round_the_ring(("node-1", "node-4"), index) for index in range(12)] == RING_ON_FIVE
    assert five.round_the_ring(("node-3", "node-1", "node-0"), 6) == ("node-4", "node-3", "node-2")


@pytest.mark.parametrize("seed", ["1", "4294967295"])
def test_a_process_that_salts_its_own_hashes_otherwise_finds_the_same_homes(seed):
    program = (
        "import json, sys; from eau2.values.placement import Placement; names, keys, chunks = json.load(sys.stdin);"
        "nodes = Placement(list(set(names)));"  # in an order that the salt decides
        "json.dump([[nodes.homes_of_key(key, 3) for key in keys],"
        "[nodes.homes_of_chunk(chunk, (), 3) for chunk in chunks],"
        "[nodes.round_the_ring(('node-1', 'node-4'), index) for index in range(12)]], sys.stdout)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([FIVE, list(KEYS_ON_FIVE), list(CHUNKS_ON_FIVE)]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": seed},
    ).stdout
    asked = [[tuple(homes) for homes in part] for part in json.loads(found)]
    assert asked == [list(KEYS_ON_FIVE.values()), list(CHUNKS_ON_FIVE.values()), RING_ON_FIVE]


@given(names, keys, st.integers(1, 14))
def test_the_table_gives_a_key_what_weighing_its_slot_alone_gives(members, key, count):
    placement = Placement(members)
    assert placement.homes_of_key(key, count) == rendezvous(mixed(slot_of(key)), placement.names)[:count]


@given(names, st.lists(chunk_ids, max_size=20), st.data())
def test_many_chunks_get_what_each_alone_gets(members, chunks, data):
    placement = Placement(members)
    count = data.draw(st.integers(1, 14))
    others = st.sampled_from([*members, "gone", "also gone"])
    assigned = [data.draw(st.lists(others, max_size=5, unique=True)) for _ in chunks]
    found = placement.homes_of_chunks(chunks, assigned, count)
    for chunk, given_to, got in zip(chunks, assigned, found, strict=True):
        here = [name for name in given_to if name in members]
        order = [name for name in rendezvous(hashed(chunk), placement.names) if name not in here]
        assert got == placement.homes_of_chunk(chunk, given_to, count) == tuple([*here, *order][:count])


def test_many_chunks_on_many_nodes_are_weighed_in_blocks_that_change_nothing():
    placement = Placement(THOUSAND)
    chunks = [f"{number:032x}" for number in range(200)]  # three blocks of 65 chunks, and a short one
    found = placement.homes_of_chunks(chunks, [()] * 200, 2)
    for index in (0, 64, 65, 129, 130, 194, 195, 199):
        assert found[index] == rendezvous(hashed(chunks[index]), placement.names)[:2]
    assert found == [placement.homes_of_chunk(chunk, (), 2) for chunk in chunks]


@given(st.permutations(FIVE), keys, chunk_ids)
def test_the_order_in_which_names_are_given_does_not_matter(members, key, chunk):
    one, other = Placement(FIVE), Placement(members)
    assert one.names == other.names
    assert one.homes_of_key(key, 5) == other.homes_of_key(key, 5)
    assert one.homes_of_chunk(chunk, (), 5) == other.homes_of_chunk(chunk, (), 5)
    assert one.round_the_ring(FIVE[:3], 7) == other.round_the_ring(FIVE[:3], 7)


def test_the_ring_is_in_the_order_in_which_people_count():
    given_names = ["node-10", "node-2", "b", "node-01", "node-1", "a10x2", "a10x", "a9", "7"]
    assert Placement(given_names).names == ("7", "a9", "a10x", "a10x2", "b", "node-01", "node-1", "node-2", "node-10")


@given(names.filter(lambda members: len(members) > 1), st.lists(keys, max_size=30), st.data())
def test_only_what_a_leaver_had_moves_and_all_of_it_goes_back_when_it_returns(members, some_keys, data):
    leaver = data.draw(st.sampled_from(members))
    count = data.draw(st.integers(1, len(members) - 1))
    before, after = Placement(members), Placement([name for name in members if name != leaver])
    for key in some_keys:
        had, has = before.homes_of_key(key, count), after.homes_of_key(key, count)
        kept = tuple(name for name in had if name != leaver)
        assert has[: len(kept)] == kept  # with leaver and returner exchanged: a joiner only pushes others back by one
        assert len(has) == count
        had, has = before.homes_of_chunk(key, (), count), after.homes_of_chunk(key, (), count)
        kept = tuple(name for name in had if name != leaver)
        assert has[: len(kept)] == kept


@given(st.integers(2, 9), st.integers(0, 200), st.data())
def test_nodes_differ_by_at_most_one_chunk_of_a_frame_as_homes_of_each_rank(nodes, chunks, data):
    members = [f"node-{number}" for number in range(nodes)]
    homes = tuple(data.draw(st.permutations(members))[: data.draw(st.integers(1, nodes))])
    placement = Placement(members)
    placed = [placement.round_the_ring(homes, index) for index in range(chunks)]
    assert placed[:1] in ([], [homes])
    assert all(len(set(one)) == len(homes) for one in placed)
    for rank in range(len(homes)):
        held = Counter(dict.fromkeys(members, 0))
        held.update(one[rank] for one in placed)
        assert max(held.values()) - min(held.values()) == (chunks % nodes != 0)


@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("turns", [1, 2, 7, 30])
def test_the_chunks_of_a_node_that_dies_are_served_evenly_by_the_others(nodes, turns):
    members = [f"node-{number}" for number in range(nodes)]
    placement = Placement(members)
    placed = [placement.round_the_ring(("node-1", "node-0"), index) for index in range(nodes * turns)]
    for dead in members:
        left = Placement([name for name in members if name != dead])
        served = Counter(dict.fromkeys(left.names, 0))
        served.update(left.homes_of_chunk("ab" * 16, homes, 2)[0] for homes in placed)
        most, least = max(served.values()), min(served.values())
        assert most - least == (turns % (nodes - 1) != 0)


@pytest.mark.parametrize("nodes", [3, 10, 100])
def test_every_node_gets_its_share_of_the_slots(nodes):
    placement = Placement([f"node-{number}" for number in range(nodes)])
    sample = [f"trips/{number}" for number in range(20_000)]
    for rank in range(2):
        held = Counter(placement.homes_of_key(key, 2)[rank] for key in sample)
        mean = len(sample) / nodes
        assert len(held) == nodes
        # Each count is binomial: beyond five deviations once in a million; it is the same in every run.
        assert max(abs(count - mean) for count in held.values()) < 5 * mean**0.5


@given(keys, st.integers(0, 2**64 - 1), names)
def test_a_hold_is_placed_as_the_key_it_is_for(key, rank, members):
    hold = f"\x00h{key}\x00{rank:016x}"
    assert slot_of(hold) == slot_of(key)
    assert Placement(members).homes_of_key(hold, 2) == Placement(members).homes_of_key(key, 2)


def test_other_keys_of_the_cluster_have_slots_of_their_own():
    assert slot_of("\x00epoch") != slot_of("epoch")


def test_what_only_looks_like_a_hold_is_our_own_mistake():
    with pytest.raises(AssertionError, match="not the key of a hold"):
        slot_of("\x00htrips with no rank after it")


def test_over_no_names_nothing_has_a_home():
    nobody = Placement([])
    assert nobody.names == ()
    assert nobody.homes_of_key("trips", 2) == ()
    assert nobody.homes_of_chunk("ab" * 16, ["node-0"], 2) == ()
    assert nobody.homes_of_chunks(["ab" * 16, "cd" * 16], [["node-0"], []], 2) == [(), ()]
    assert nobody.round_the_ring((), 5) == ()


def test_more_homes_than_names_are_all_names():
    two = Placement(["a", "b"])
    assert sorted(two.homes_of_key("trips", 9)) == ["a", "b"]
    assert sorted(two.homes_of_chunk("ab" * 16, (), 9)) == ["a", "b"]
    assert two.homes_of_chunk("ab" * 16, ("b",), 9) == ("b", "a")


def test_a_name_assigned_twice_is_one_home():
    assert Placement(["a", "b"]).homes_of_chunk("ab" * 16, ("b", "b"), 2) == ("b", "a")


def test_names_given_twice_are_our_own_mistake():
    with pytest.raises(AssertionError, match="distinct"):
        Placement(["node-0", "node-0"])


def test_a_home_that_is_not_on_the_ring_is_named():
    with pytest.raises(KeyError, match="node-9"):
        Placement(FIVE).round_the_ring(("node-9", "node-0"), 3)


def test_each_chunk_needs_its_assigned_homes():
    with pytest.raises(ValueError, match="longer"):
        Placement(FIVE).homes_of_chunks(["ab" * 16], [(), ()], 2)
