"""What only a node of this process can do: at once, and all or nothing."""

from __future__ import annotations

import pytest

import eau2
from eau2.errors import KeyExists, StoreClosed, VersionConflict
from eau2.store.nodes import Expect, Kind, Write


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "store") as store:
        yield store


def test_one_write_that_is_refused_refuses_all(store):
    store.put_many({"a": b"1", "large": bytes(1000)})
    here = store.node.here
    writes = [
        Write("new", Kind.BYTES, b"x"),
        Write("large", Kind.DELETED),
        Write("a", Kind.BYTES, b"x", expect=Expect.ABSENT),
    ]
    before = here.generation()
    assert isinstance(here.write_all(writes)[2], KeyExists)
    assert isinstance(here.write_all([*writes[:2], Write("a", Kind.DELETED, expect=7)])[2], VersionConflict)
    assert store.get_many(["a", "large"]) == {"a": b"1", "large": bytes(1000)}
    assert store.keys() == ["a", "large"]
    assert here.generation() == before
    assert here.write_all([*writes[:2], Write("a", Kind.DELETED, expect=1)]) == [1, 2, 2]
    assert store.keys() == ["new"]
    assert store.check().faults == ()


def test_whether_anybody_else_has_written_is_known(store, tmp_path):
    here = store.node.here
    with eau2.open(tmp_path / "store") as other:
        seen = here.generation()
        assert here.generation() == seen
        assert here.put({"a": b"1"})
        assert here.generation() != seen
        other.put("b", b"2")
        assert not here.put({"a": b"3"})
        assert (store.version("a"), other.get("a")) == (2, b"3")


def test_only_a_node_of_this_process_that_can_be_written_has_it(tmp_path):
    with eau2.open(tmp_path / "three", nodes=3) as store:
        assert store.node.here is None
    with eau2.open(tmp_path / "one") as store:
        here = store.node.here
    with pytest.raises(StoreClosed):
        here.generation()
    with pytest.raises(StoreClosed):
        here.put({"a": b"1"})
    with pytest.raises(StoreClosed):
        here.get_many(["a"])
