"""Frames queried last stay open, and never hide what was put or deleted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import eau2
from eau2.frame.opened import SOURCES_MAX


@pytest.fixture
def store(tmp_path):
    with eau2.open(tmp_path / "data") as opened:
        yield opened


def count(store, key):
    return store.sql(f'select count(*) as n from "{key}"').to_arrow()["n"][0].as_py()


def test_a_frame_that_is_asked_for_again_is_the_one_that_is_open(store):
    store.put("t", {"x": [1, 2]})
    assert store.frame("t").source is store.frame("t").source
    mapped = store.statistics().chunks_mapped
    assert [count(store, "t") for _ in range(5)] == [2] * 5
    assert store.statistics().chunks_mapped == mapped


def test_a_new_version_is_seen_at_once_also_of_another_process_s_store(store, tmp_path):
    store.put("t", {"x": [1, 2]})
    assert count(store, "t") == 2
    with eau2.open(tmp_path / "data") as other:
        other.put("t", {"x": [1, 2, 3]})
        assert count(store, "t") == 3
        other.delete("t")
        with pytest.raises(eau2.UnknownTable):
            store.sql("select * from t")
        with pytest.raises(eau2.KeyMissing):
            store.frame("t")


def test_what_was_replaced_is_let_go_at_the_next_look(store):
    store.put("t", {"x": [1, 2]})
    store.put("other", {"x": [1]})
    count(store, "t")
    opened = store._tables._opened
    store.delete("t")
    store.frame("other")
    assert list(opened._sources) == ["other"]


def test_few_frames_are_kept_open(store):
    for number in range(SOURCES_MAX + 5):
        store.put(f"t{number}", {"x": np.arange(number + 1)})
    assert [count(store, f"t{number}") for number in range(SOURCES_MAX + 5)] == list(range(1, SOURCES_MAX + 6))
    assert len(store._tables._opened._sources) == SOURCES_MAX


def test_a_held_frame_stays_as_it_was(store):
    store.put("t", {"x": [1, 2]})
    held = store.frame("t")
    query = held.filter("x > 1")
    store.put("t", {"x": [5]})
    store.delete("t")
    assert held.to_arrow().equals(pa.table({"x": [1, 2]}))
    assert query.to_arrow().to_pydict() == {"x": [2]}


def test_the_answer_of_a_query_is_stored_also_under_a_key_it_reads(store):
    store.put("t", {"x": np.arange(100_000), "y": np.arange(100_000) % 7})
    assert store.put("t", store.sql("select x, y from t where y = 3")) == 2
    assert store.frame("t").to_arrow()["x"].to_pylist() == list(range(3, 100_000, 7))
    store.put("few", store.frame("t").filter_rows(lambda row: row["x"] < 20))
    assert store.frame("few").to_arrow()["x"].to_pylist() == [3, 10, 17]
    store.put("head", store.frame("t").head(2))
    assert store.frame("head").to_arrow()["x"].to_pylist() == [3, 10]
