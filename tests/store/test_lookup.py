"""Frames that are replaced while they are opened."""

from types import SimpleNamespace

import pytest

from eau2.errors import Corrupt, NodeUnavailable
from eau2.store.lookup import look_up, look_up_many
from eau2.store.nodes import Entry, Kind


def node_with(version):
    now = Entry(version, Kind.FRAME, b"")
    return SimpleNamespace(get=lambda key: now, here=None, get_many=lambda keys: dict.fromkeys(keys, now))


def tables_without(version, failure):
    def frame(node, key, entry):
        if entry.version == version:
            raise failure
        return f"{key} {entry.version}"

    return SimpleNamespace(frame=frame)


@pytest.mark.parametrize("failure", [FileNotFoundError(2, "gone", "chunk"), NodeUnavailable("chunk is down")])
def test_a_frame_that_was_replaced_is_what_is_there_now(failure):
    tables = tables_without(1, failure)
    assert look_up(node_with(2), tables, "a", Entry(1, Kind.FRAME, b"")) == "a 2"
    old, new = Entry(1, Kind.FRAME, b""), Entry(2, Kind.FRAME, b"")
    answers = iter([{"a": old, "b": old}, {"a": new, "b": new}])
    node = SimpleNamespace(here=None, get_many=lambda keys: next(answers))
    assert look_up_many(node, tables, ["a", "b"]) == {"a": "a 2", "b": "b 2"}


@pytest.mark.parametrize(
    ("failure", "said"),
    [(FileNotFoundError(2, "gone", "chunk"), Corrupt), (NodeUnavailable("chunk is on node-1; down"), NodeUnavailable)],
)
def test_a_chunk_of_what_is_there_that_cannot_be_had_is_an_error(failure, said):
    with pytest.raises(said, match="chunk"):
        look_up(node_with(1), tables_without(1, failure), "a", Entry(1, Kind.FRAME, b""))
    with pytest.raises(said, match="chunk"):
        look_up_many(node_with(1), tables_without(1, failure), ["a"])
