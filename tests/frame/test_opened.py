import gc
import os
from pathlib import Path

import pytest
from tests.until import until

import eau2
from eau2.frame.opened import PLAN_TEXT_MAX, PLANS_MAX
from eau2.query.engine import Engine


def mapped_and_removed():
    """Chunk files that have no name any more and still take disk space, because this process maps them."""
    maps = Path("/proc/self/maps").read_text()
    return {line.split()[5] for line in maps.splitlines() if ".arrow (deleted)" in line}


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="what a process maps is only shown by Linux")
def test_a_deleted_frame_that_nobody_holds_takes_no_disk_space(tmp_path):
    gc.collect()
    before = mapped_and_removed()
    with eau2.open(tmp_path / "store") as store:
        store.put("t", {"n": list(range(10_000))})
        store.sql("select sum(n) from t").to_arrow()
        held = store.frame("t")
        store.delete("t")
        assert len(mapped_and_removed() - before) == 1
        assert held.rows == 10_000
        del held
        gc.collect()
        until(lambda: mapped_and_removed() <= before)


@pytest.fixture
def planned(monkeypatch):
    """The texts of the queries that were planned, in their order."""
    texts = []
    plan = Engine.sql

    def noted(self, query, *args):
        texts.append(query)
        return plan(self, query, *args)

    monkeypatch.setattr(Engine, "sql", noted)
    return texts


def test_a_query_asked_again_is_not_planned_again_until_a_frame_that_it_reads_is_another(tmp_path, planned):
    query = "select sum(n) as n from t"
    with eau2.open(tmp_path) as store, eau2.open(tmp_path) as other:
        for writer in (store, other):
            for number in (1, 2):
                writer.put("t", {"n": [number, 10]})
                planned.clear()
                answers = [store.sql(query).to_arrow()["n"].to_pylist() for _ in range(3)]
                assert answers == [[number + 10]] * 3
                assert planned == [query]
        other.put("another", b"which no query reads")
        assert store.sql(query).to_arrow()["n"].to_pylist() == [12]
        assert planned == [query]
        store.delete("t")
        with pytest.raises(eau2.UnknownTable):
            store.sql(query)


def test_a_query_is_planned_again_where_one_of_its_names_has_come_to_mean_another_frame(tmp_path):
    with eau2.open(tmp_path) as store:
        store.put("T", {"n": [1]})
        assert store.sql("select n from T").to_arrow()["n"].to_pylist() == [1]
        store.put("t", {"m": [0]})
        assert store.sql("select n from T").to_arrow()["n"].to_pylist() == [1]  # as `t` has no such column
        store.put("t", {"n": [2]})
        assert store.sql("select n from T").to_arrow()["n"].to_pylist() == [2]


@pytest.mark.parametrize(
    "query",
    [
        "select now() as x from t",
        "select random() as x from t",
        f"select max(x) as x from (values {'(now() - interval 1 day), ' * 5} (now())) as v(x), t",
    ],
)
def test_a_query_asked_again_is_of_its_own_time_and_chance(tmp_path, query):
    with eau2.open(tmp_path) as store:
        store.put("t", {"n": [1]})
        first, second = (store.sql(query).to_arrow()["x"][0].as_py() for _ in range(2))
        assert first != second


def test_values_of_parameters_are_those_of_each_asking(tmp_path):
    with eau2.open(tmp_path) as store:
        store.put("t", {"n": [1, 2, 3]})
        for number in (1, 2, 1):
            answer = store.sql("select n from t where n = $number", parameters={"number": number})
            assert answer.to_arrow()["n"].to_pylist() == [number]


def test_plans_are_kept_for_the_latest_queries_only(tmp_path, planned):
    with eau2.open(tmp_path) as store:
        store.put("t", {"n": [1]})
        queries = [f"select n + {number} as n from t" for number in range(PLANS_MAX + 1)]
        for query in (*queries, queries[-1], queries[0]):
            store.sql(query)
        assert planned == [*queries, queries[0]]


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("select 1 as n", id="of no frame"),
        pytest.param(f"select n from t where n in ({'1, ' * PLAN_TEXT_MAX} 1)", id="long"),
        pytest.param("select count(*) from " + ", ".join(f"wide w{number}" for number in range(20)), id="large"),
    ],
)
def test_no_plan_is_kept_that_is_large_or_reads_nothing(tmp_path, planned, query):
    with eau2.open(tmp_path) as store:
        store.put("t", {"n": [1]})
        store.put("wide", {f"column {number}": [1] for number in range(1000)})
        store.sql(query)
        store.sql(query)
        assert planned == [query, query]
