"""What a member is asked for comes in answers of a bounded size."""

from __future__ import annotations

from tests.cluster.memory_node import MemoryNode

from eau2.cluster import keys
from eau2.cluster.peer import every_record
from eau2.cluster.runtime import finish
from eau2.store.nodes import Kind, Record


class OneNode:
    """As much of a `Peer` as is asked."""

    def __init__(self, node):
        self.node, self.answers = node, []

    async def records(self, epoch, asked):
        self.answers.append(keys.first_records(self.node, asked))
        return self.answers[-1]


async def collected(peer, asked):
    return [record async for records in every_record(peer, 1, asked) for record in records]


def test_all_records_come_in_their_order_some_at_a_time(monkeypatch):
    monkeypatch.setattr(keys, "_ANSWER_BYTES", 2500)
    written = [Record(f"k{number}", 1, Kind.BYTES, bytes(1000)) for number in range(10)]
    peer = OneNode(MemoryNode())
    peer.node.store(written)
    asked = ["a", *(record.key for record in written[:5]), "unknown", *(record.key for record in written[5:]), "z"]
    assert finish(collected(peer, asked)) == written
    assert [len(answer) for answer in peer.answers] == [3, 3, 3, 1, 0]


def test_a_value_that_is_larger_than_an_answer_should_be_comes_alone(monkeypatch):
    monkeypatch.setattr(keys, "_ANSWER_BYTES", 100)
    written = [Record(f"k{number}", 1, Kind.BYTES, bytes(1000)) for number in range(3)]
    peer = OneNode(MemoryNode())
    peer.node.store(written)
    assert finish(collected(peer, [record.key for record in written])) == written
    assert [len(answer) for answer in peer.answers] == [1, 1, 1]


def test_nothing_is_asked_of_nobody():
    peer = OneNode(MemoryNode())
    assert finish(collected(peer, [])) == []
    assert peer.answers == []
