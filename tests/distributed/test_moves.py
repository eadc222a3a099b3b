"""What moves, and what does not: scan, partial and final, broadcast, exchange, gather."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from tests.distributed.comparing import difference

if TYPE_CHECKING:
    from eau2.distributed.explanation import Explanation

pytestmark = pytest.mark.slow  # make check has the rest of what is cut

ROWS = 10_000


@pytest.fixture
def cluster(make_cluster):
    """Four nodes that have a large frame, a middling and a small one."""
    made = make_cluster(4)
    numbers = np.arange(ROWS)
    big = {"id": numbers, "k": numbers % 1000, "v": numbers / 4, "s": [f"text {each % 7}" for each in range(ROWS)]}
    made.hold("big", pa.table(big), rows_per_chunk=1000)
    made.hold("mid", pa.table({"k": numbers[:4000] % 1000, "w": numbers[:4000] * 2}), rows_per_chunk=500)
    made.hold("small", pa.table({"k": np.arange(10), "name": [f"n{each}" for each in range(10)]}), rows_per_chunk=5)
    return made


def explained(cluster, query) -> Explanation:
    """How a query ran, which answers as the engine alone."""
    assert difference(cluster.sql(query), cluster.alone(query)) == ""
    explanation = cluster.explain(query)
    assert explanation.ran
    assert explanation.uncut == ""
    return explanation


def _as(values, type_):
    if pa.types.is_decimal(type_):
        return pa.array([None if value is None else Decimal(value) for value in values], type_)
    return pa.array(values, pa.int32()).cast(type_)


def moves(explanation):
    return [(step.move, step.rows) for step in explanation.steps]


# -- scan --------------------------------------------------------------------------------------------------------------


def test_only_the_rows_and_columns_asked_for_leave_a_node(cluster):
    explanation = explained(cluster, "select v from big where k = 7")
    assert moves(explanation) == [("gather", 10)]
    assert (explanation.moved_rows, explanation.moved_bytes) == (10, 80)


def test_chunks_that_can_hold_no_answer_are_not_touched(cluster):
    cluster.nodes.fragments.clear()
    explained(cluster, "select v from big where id = 4711")
    read = [chunk for fragment in cluster.nodes.fragments for table in fragment.chunks for chunk, _ in table.chunks]
    assert read == [4, 4]  # of ten, once for the answer and once to explain
    assert len(cluster.nodes.fragments) == 2


def test_a_query_that_no_chunk_can_answer_asks_no_node(cluster):
    cluster.nodes.fragments.clear()
    assert cluster.sql("select v from big where id < 0").num_rows == 0
    assert cluster.sql("select count(*) as n, sum(v) as s from big where id < 0").to_pylist() == [{"n": 0, "s": None}]
    assert cluster.nodes.fragments == []


def test_filters_and_selections_keep_the_order_of_the_rows(cluster):
    assert cluster.sql("select id from big where k % 2 = 0")["id"].to_pylist() == [*range(0, ROWS, 2)]
    assert cluster.sql("select s, id from big")["id"].to_pylist() == [*range(ROWS)]
    assert cluster.sql("select id from big where v > 1000 limit 3 offset 2")["id"].to_pylist() == [4003, 4004, 4005]


# -- partial and final -------------------------------------------------------------------------------------------------


def test_groups_move_and_not_their_rows(cluster):
    query = "select s, count(*) as n, sum(v) as t, avg(v) as a, min(id) as l, max(id) as m from big group by s"
    explanation = explained(cluster, query)
    assert moves(explanation) == [("gather", 4 * 7)]
    assert explanation.at_caller.count("aggregate") == 1


def test_a_total_moves_one_row_a_node(cluster):
    assert moves(explained(cluster, "select count(*) as n, sum(v) as t from big where k > 3")) == [("gather", 4)]


def test_as_many_rows_move_as_the_top_needs(cluster):
    assert moves(explained(cluster, "select id, v from big order by v desc limit 5 offset 2")) == [("gather", 4 * 7)]
    assert cluster.sql("select id from big limit 3")["id"].to_pylist() == [0, 1, 2]  # the engine alone may give others
    assert moves(cluster.explain("select id from big limit 3")) == [("gather", 10 * 3)]


@pytest.mark.slow
def test_merged_columns_have_the_types_of_the_plan(make_cluster):
    cluster = make_cluster(3, gather_bytes_max=0)
    for type_ in (pa.int8(), pa.uint64(), pa.float32(), pa.decimal128(5, 2), pa.decimal128(38, 10), pa.date32()):
        values = _as([*range(10)], type_)
        cluster.hold("t", pa.table({"g": [1, 2] * 5, "c": values}), rows_per_chunk=2)
        functions = ["min", "max", "count"] if type_ == pa.date32() else ["min", "max", "count", "sum", "avg"]
        query = f"select g, {', '.join(f'{each}(c) as {each}' for each in functions)} from t group by g"
        assert cluster.sql(query).schema.types == cluster.alone(query).schema.types
        explained(cluster, query)


@pytest.mark.parametrize(
    ("type_", "value", "moved"), [(pa.decimal128(38, 38), "0.9", 6), (pa.decimal128(28, 3), "9e24", 4)]
)
def test_averages_of_decimals_have_room_for_their_sums(make_cluster, type_, value, moved):
    """Where a sum by a count has not, all rows come together."""
    cluster = make_cluster(2, gather_bytes_max=0)
    cluster.hold("t", pa.table({"g": [1, 2, 1] * 2, "c": _as([value] * 6, type_)}), rows_per_chunk=3)
    query = "select g, avg(c) as a from t group by g"
    assert cluster.sql(query)["a"].to_pylist() == [Decimal(value)] * 2
    assert moves(explained(cluster, query))[0] == ("exchange", moved)


# -- broadcast and exchange --------------------------------------------------------------------------------------------


def test_a_small_side_goes_to_all_nodes(cluster):
    explanation = explained(cluster, "select name, sum(v) as t from big join small on big.k = small.k group by name")
    assert [move for move, _ in moves(explanation)] == ["broadcast", "gather"]
    assert explanation.steps[0].moved_rows == 10 * 3  # two nodes have it, of which each lacks a half; two lack all


def test_two_large_sides_are_exchanged(cluster):
    query = "select count(*) as n, sum(w) as t from big join mid on big.k = mid.k and big.v <> mid.w"
    explanation = explained(cluster, query)
    assert moves(explanation)[:2] == [("exchange", 4000), ("exchange", ROWS)]
    moved = sum(step.moved_rows for step in explanation.steps[:2])
    assert moved == pytest.approx((4000 + ROWS) * 3 / 4, rel=0.1)


@pytest.mark.slow
def test_what_moves_is_chosen_by_bytes(make_cluster):
    """Both sides over four nodes: one to all moves it three times, an exchange three quarters of both."""
    for small, expected in ((200, "broadcast"), (900, "exchange")):
        cluster = make_cluster(4)
        for name, rows in (("a", 1000), ("b", small)):
            cluster.hold(name, pa.table({"k": np.arange(rows), "v": np.arange(rows)}), rows_per_chunk=-(-rows // 8))
        assert explained(cluster, "select a.v, b.v as w from a join b on a.k = b.k").steps[0].move == expected


def test_a_side_that_keeps_rows_without_a_match_does_not_go_to_all_nodes(cluster):
    """Each node would keep them."""
    query = "select small.name, big.v from small left join big on small.k = big.k + 995"
    explanation = explained(cluster, query)
    assert [move for move, _ in moves(explanation)][:2] in (["exchange", "exchange"], ["broadcast", "gather"])
    explained(cluster, "select small.name, big.v from small full join big on small.k = big.k + 9995")
    explained(cluster, "select small.name, big.v from big full join small on small.k = big.k + 995")
    explained(cluster, "select small.name, big.v from big right join small on small.k = big.k + 995")


@pytest.mark.slow
def test_there_are_as_many_partitions_as_fit_the_memory_of_a_node(make_cluster):
    few, many = make_cluster(3, 64 << 20), make_cluster(3, 16 << 20)
    table = pa.table({"k": np.arange(2 << 20), "v": np.arange(2 << 20)})  # 32 MB
    for cluster in (few, many):
        cluster.hold("t", table, rows_per_chunk=1 << 18)
    query = "select a.v from t a join t b on a.k = b.v"
    assert few.explain(query, run=False).partitions == 6
    assert many.explain(query, run=False).partitions == 18


@pytest.mark.slow
def test_rows_of_a_group_meet_for_what_has_no_parts(cluster):
    exchanging = [
        ("select k, median(v) as m from big group by k", ROWS),
        ("select k, count(distinct s) as d, count(distinct v) as e from big group by k", ROWS),
        ("select id, rank() over (partition by s order by id desc) as r from big", ROWS),
    ]
    for query, rows in exchanging:
        assert moves(explained(cluster, query))[0][1] == rows


def test_what_is_grouped_by_the_keys_it_was_joined_by_stays_where_it_is(make_cluster):
    cluster = make_cluster(4, gather_bytes_max=0)
    numbers = np.arange(4000)
    for name in ("a", "b"):
        cluster.hold(name, pa.table({"k": numbers % 500, "v": numbers}), rows_per_chunk=500)
    query = "select a.k, sum(b.v) as s from a join b on a.k = b.k group by a.k"
    assert moves(explained(cluster, query)) == [("exchange", 4000), ("exchange", 4000), ("gather", 500)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["left", "right", "full"])
def test_rows_without_a_match_are_one_group_wherever_they_are(make_cluster, kind):
    """They have no key of the other side, and so are in any partition."""
    cluster = make_cluster(4, gather_bytes_max=0)
    numbers = np.arange(2000)
    cluster.hold("a", pa.table({"k": numbers, "v": numbers}), rows_per_chunk=200)
    cluster.hold("b", pa.table({"k": numbers + 1000, "w": numbers}), rows_per_chunk=200)
    for key in ("a.k", "b.k"):
        query = f"select {key}, count(*) as n from a {kind} join b on a.k = b.k group by {key}"
        explanation = explained(cluster, query)
        assert moves(explanation)[:2] == [("exchange", 2000)] * 2
        windows = f"select {key}, row_number() over (partition by {key} order by v, w) as r"
        explained(cluster, f"{windows} from a {kind} join b on a.k = b.k")


def test_a_union_of_what_is_in_different_places_stays_there(make_cluster):
    cluster = make_cluster(4, gather_bytes_max=0)
    numbers = np.arange(4000)
    for name in ("a", "b", "c"):
        cluster.hold(name, pa.table({"k": numbers % 500, "v": numbers}), rows_per_chunk=500)
    query = "select a.k, a.v from a join b on a.k = b.k and a.v = b.v union all select k, v from c where k < 400"
    explanation = explained(cluster, f"select v % 3 as m, count(*) as n from ({query}) u group by v % 3")
    assert [move for move, _ in moves(explanation)] == ["exchange", "exchange", "stay", "exchange", "gather"]
    assert explanation.steps[2].moved_rows == 0
    explained(cluster, f"{query} union all select 1 as k, 2 as v")


def test_a_side_that_turns_out_to_be_small_goes_to_all_nodes(make_cluster):
    """The guess for a filter is a third; of the text nothing is left."""
    cluster = make_cluster(4)
    numbers = np.arange(4000)
    cluster.hold("a", pa.table({"k": numbers, "v": numbers}), rows_per_chunk=500)
    cluster.hold("b", pa.table({"k": numbers, "s": ["x" * 150] * 3999 + ["y"]}), rows_per_chunk=500)
    explanation = explained(cluster, "select a.v, b.s from a join b on a.k = b.k where b.s like '%y%'")
    assert moves(explanation) == [("stay", 4000), ("broadcast", 1), ("gather", 1)]
    assert explanation.moved_rows == 3 + 1


@pytest.mark.slow
def test_sides_of_different_types_meet(make_cluster):
    cluster = make_cluster(3, gather_bytes_max=0)
    values = [1, 2, None, 4, 5, 6, 2, 1, 0]
    types = [pa.int8(), pa.int64(), pa.uint16(), pa.float64(), pa.decimal128(9, 2), pa.decimal128(20, 4)]
    for index, type_ in enumerate(types):
        cluster.hold(f"t{index}", pa.table({"x": _as(values, type_)}), rows_per_chunk=2)
    for one in range(len(types)):
        for other in range(len(types)):
            explained(cluster, f"select a.x, b.x as y from t{one} a full join t{other} b on a.x = b.x")


def test_zeros_of_either_sign_and_nan_meet_as_on_one_node(make_cluster):
    cluster = make_cluster(3, gather_bytes_max=0)
    nan = float("nan")
    cluster.hold("a", pa.table({"f": [0.0, -0.0, nan, np.copysign(nan, -1), 1.0, None]}), rows_per_chunk=1)
    cluster.hold("b", pa.table({"f": [-0.0, 0.0, np.copysign(nan, -1), nan, None]}), rows_per_chunk=1)
    for query in (
        "select a.f, b.f as g from a full join b on a.f = b.f",
        "select a.f, b.f as g from a full join b on a.f is not distinct from b.f",
        "select f, count(*) as n from (select * from a union all select * from b) u group by f",
        "select distinct f from a",
    ):
        explained(cluster, query)


# -- explaining --------------------------------------------------------------------------------------------------------


def test_explaining_runs_nothing_and_says_what_is_cut_where(cluster):
    cluster.nodes.fragments.clear()
    query = "select name, sum(v) as t from big join small on big.k = small.k where big.id < 3000 group by name"
    explanation = cluster.explain(query, run=False)
    assert cluster.nodes.fragments == []
    assert not explanation.ran
    assert [step.move for step in explanation.steps] == ["broadcast", "gather"]
    assert [step.where for step in explanation.steps] == ["on the nodes that have the chunks"] * 2
    assert "big[3 of 10 chunks]" in str(explanation)
    assert "about" in str(explanation)
    assert "moved" not in str(explanation)
    ran = str(cluster.explain(query))
    assert "broadcast 10 rows" in ran
    assert "of which moved 30 rows" in ran


def test_explaining_what_is_not_cut_says_why(cluster):
    explanation = cluster.explain("select id from big where s similar to 'x'", run=False)
    assert "SimilarTo" in explanation.uncut
    assert [step.move for step in explanation.steps] == ["gather"]
    assert "not cut" in str(explanation)


def test_fragments_are_small_and_can_be_sent(cluster):
    cluster.nodes.fragments.clear()
    cluster.sql("select name, sum(v) as t from big join small on big.k = small.k group by name")
    for fragment in cluster.nodes.fragments:
        assert pickle.loads(pickle.dumps(fragment)) == fragment
        assert len(pickle.dumps(fragment)) < 4000


def test_frames_operations_are_cut_as_sql_is(cluster):
    recipe = cluster.recipe("select * from big")
    counted = cluster.distributed.extend(lambda frame: frame.filter("k < 5").select("id", "k").limit(7), recipe)
    assert cluster.distributed.collect(counted).num_rows == 7
    assert cluster.distributed.explain(counted, run=True).moved_rows < 100


def test_the_first_rows_are_the_first_also_of_a_chunk_that_several_threads_read(make_cluster):
    cluster = make_cluster(2)
    cluster.hold("t", pa.table({"id": np.arange(300_000)}), rows_per_chunk=150_000)
    for _ in range(5):
        assert cluster.sql("select id from t where id > 5 limit 3")["id"].to_pylist() == [6, 7, 8]
        first = next(cluster.distributed.first(cluster.recipe("select id from t where id % 2 = 1"), 3))
        assert first["id"].to_pylist() == [1, 3, 5]


def test_rows_without_columns_are_counted(cluster):
    cluster.hold("bare", pa.table({"n": [1, 2, 3]}).select([]), rows_per_chunk=3)
    assert cluster.sql("select count(*) as n from bare").to_pylist() == [{"n": 3}]
    assert cluster.sql("select count(*) as n from bare, small").to_pylist() == [{"n": 30}]
