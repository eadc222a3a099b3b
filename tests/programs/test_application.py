"""Programs on every node: who runs, what is local, barriers, parameters."""

import threading
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eau2
from eau2.errors import InvalidOption, ProgramFailed, WaitTimeout, WrongKind
from eau2.programs.application import _chunks_of
from eau2.programs.running import Run
from eau2.query.source import Source

pytestmark = pytest.mark.usefixtures("nothing_left")
COUNTS = (1, 2, 3, 8)


class Who(eau2.Application):
    def run(self):
        self.barrier("all are here")  # which none would pass if they ran one after the other
        self.seen = [*getattr(self, "seen", []), self.this_node]
        return self.this_node, self.node_count, self.node_name, self.seen


@pytest.mark.parametrize("nodes", COUNTS)
def test_a_program_runs_on_every_node_at_once_and_answers_in_the_order_of_the_nodes(opened, nodes):
    answers = eau2.run(Who, on=opened(nodes))
    assert answers == [(node, nodes, f"node-{node}", [node]) for node in range(nodes)]


def test_the_order_in_which_nodes_start_does_not_matter(opened):
    assert [answer[0] for answer in Run(Who, opened(3), {}).results(order=[2, 0, 1])] == [0, 1, 2]


def test_a_program_may_have_a_constructor_of_its_own(opened):
    class Own(eau2.Application):
        step: int = 2

        def __init__(self):
            self.total = 40

        def run(self):
            return self.total + self.step

    assert eau2.run(Own, on=opened(2)) == [42, 42]


def test_what_is_no_program_and_what_is_no_store_is_refused(opened):
    class Unfinished(eau2.Application):
        pass

    store = opened(1)
    for program in (Unfinished, eau2.Application):
        with pytest.raises(InvalidOption, match="def run"):
            eau2.run(program, on=store)
    for program in (len, int, "Who", None):
        with pytest.raises(WrongKind):
            eau2.run(program, on=store)
    with pytest.raises(WrongKind, match=r"eau2\.open"):
        eau2.run(Who, on="data/")
    with pytest.raises(InvalidOption, match=r"eau2\.run\(Who"):
        _ = Who().this_node


def test_the_store_of_a_program_is_the_store(opened):
    class All(eau2.Application):
        def run(self):
            store = self.store
            store.put(f"bytes-{self.this_node}", b"1")
            self.barrier("put")
            table = {"n": [1, 2, 3]}
            return (
                store.keys("bytes-"),
                store.get("bytes-0"),
                store.create(f"frame-{self.this_node}", table),
                store.sql(f'select sum(n) as s from "frame-{self.this_node}"').to_arrow()["s"].to_pylist(),
                store.get("absent", default=None),
                store.nodes,
                repr(store).split()[0],
                "put_many" in dir(store),
            )

    names = ("node-0", "node-1")
    expected = (["bytes-0", "bytes-1"], b"1", 1, [6], None, names, "<Store", True)
    assert eau2.run(All, on=opened(2)) == [expected, expected]


# -- what is local ----------------------------------------------------------------------------------------------------


class Local(eau2.Application):
    def run(self):
        return [batch["n"].to_pylist() for batch in self.local(self.store.frame("numbers"))]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("nodes", COUNTS)
def test_every_row_of_a_frame_is_local_to_one_node_and_nodes_differ_by_one_chunk(opened, nodes):
    store = opened(nodes)
    store.put("numbers", (pa.record_batch({"n": np.arange(i, i + 500)}) for i in range(0, 10_000, 500)))
    assert store.frame("numbers").chunks >= 16
    answers = eau2.run(Local, on=store)
    assert sorted(n for batches in answers for batch in batches for n in batch) == list(range(10_000))
    chunks = Counter(map(len, answers))
    assert max(chunks) - min(chunks) <= 1


def test_frames_without_rows_and_frames_that_no_key_names(opened):
    class Odd(eau2.Application):
        def run(self):
            empty = list(self.local(self.store.frame("empty")))
            head = [batch["n"].to_pylist() for batch in self.local(self.store.frame("numbers").head(2))]
            return empty, head

    store = opened(2)
    store.put("empty", pa.table({"n": pa.array([], pa.int64())}))
    store.put("numbers", {"n": [1, 2, 3]})
    assert eau2.run(Odd, on=store) == [([], [[1, 2]]), ([], [])]


def test_the_answer_of_a_query_is_on_no_node(opened):
    class Derived(eau2.Application):
        def run(self):
            self.local(self.store.sql("select 1"))

    with pytest.raises(ProgramFailed, match="on no node") as failed:
        eau2.run(Derived, on=opened(1))
    assert isinstance(failed.value.__cause__, WrongKind)


@pytest.mark.usefixtures("small_chunks")
def test_nodes_that_see_the_chunks_at_different_places_still_share_them_out(opened):
    class Moved(eau2.Application):
        def run(self):
            frame = self.store.frame("numbers")
            names = self.store.nodes  # as if a node had died between two of these looks, and another had come
            places = tuple(names[(chunk * self.this_node) % 3] for chunk in range(frame.chunks - 1))
            held = frame.source
            source = Source(
                held.key, held.version, held.manifest, held.mapped._replace(places=(*places, "node-9")), None
            )
            found = self.local(eau2.Frame.stored(source, frame._engine))
            return [n for batch in found for n in batch["n"].to_pylist()]

    store = opened(3)
    store.put("numbers", (pa.record_batch({"n": np.arange(i, i + 500)}) for i in range(0, 5_000, 500)))
    assert sorted(chain.from_iterable(eau2.run(Moved, on=store))) == list(range(5_000))


names = st.lists(st.sampled_from([f"node-{i}" for i in range(9)]), min_size=1, unique=True)


@given(names, st.lists(st.sampled_from([f"node-{i}" for i in range(12)])))
def test_every_chunk_is_some_nodes_and_no_two_nodes(names, places):
    chunks = [_chunks_of(names, index, places, len(places)) for index in range(len(names))]
    assert sorted(chain.from_iterable(chunks)) == list(range(len(places)))
    for index, mine in enumerate(chunks):
        assert all(places[chunk] == names[index] for chunk in mine if places[chunk] in names)


# -- barriers ---------------------------------------------------------------------------------------------------------


def test_nobody_passes_a_barrier_before_all_are_there_and_names_may_be_used_again(opened):
    reached = Counter()
    lock = threading.Lock()

    class Rounds(eau2.Application):
        def run(self):
            for turn in range(50):
                name = ("a", "b")[turn % 3 // 2]
                with lock:
                    reached[turn] += 1
                self.barrier(name)
                assert reached[turn] == self.node_count

    assert eau2.run(Rounds, on=opened(5)) == [None] * 5
    assert len(reached) == 50


def test_a_barrier_that_nodes_do_not_reach_in_time_fails_the_run_and_names_them(opened):
    class Late(eau2.Application):
        def run(self):
            self.barrier("all are here")
            if self.this_node in (1, 3):
                self.store.wait("never")
            self.barrier("counted", timeout_seconds=0.2)

    with pytest.raises(ProgramFailed, match=r"'counted': node-1 and node-3 did not come within 0\.2 s") as failed:
        eau2.run(Late, on=opened(4))
    assert isinstance(failed.value.__cause__, WaitTimeout)
    assert failed.value.node in ("node-0", "node-2")


def test_a_barrier_that_a_node_cannot_reach_any_more_fails_the_run_at_once(opened):
    class Gone(eau2.Application):
        def run(self):
            if self.this_node != 2:
                self.barrier("counted")

    with pytest.raises(ProgramFailed, match="'counted' cannot open: node-2 ended without reaching it"):
        eau2.run(Gone, on=opened(3))


def test_nodes_that_all_wait_at_different_barriers_fail_the_run_at_once(opened):
    class Crossed(eau2.Application):
        def run(self):
            self.barrier("ab"[self.this_node])

    with pytest.raises(ProgramFailed, match=r"every node waits at a barrier, node-[01] at '[ab]'"):
        eau2.run(Crossed, on=opened(2))


def test_a_barrier_that_failed_fails_the_run_even_if_the_program_goes_on(opened):
    class Stubborn(eau2.Application):
        def run(self):
            if self.this_node == 0:
                try:
                    self.barrier("b", timeout_seconds=0)
                except WaitTimeout:
                    return
            self.store.wait("never")

    with pytest.raises(ProgramFailed, match="node-1 did not come"):
        eau2.run(Stubborn, on=opened(2))


def test_a_barrier_takes_a_time_from_zero(opened):
    class Wrong(eau2.Application):
        def run(self):
            self.barrier("b", timeout_seconds=-1)

    with pytest.raises(ProgramFailed, match="timeout_seconds is a number from 0"):
        eau2.run(Wrong, on=opened(1))


# -- parameters -------------------------------------------------------------------------------------------------------


class Taking(eau2.Application):
    whole: int = 1
    real: float = 1.0
    text: str = "t"
    flag: bool = False
    file: Path | None = None
    maybe: "int | None" = None
    odd: "list[int]" = ()
    _private: int = 1
    unannotated = 5

    def run(self):
        return self.whole, self.real, self.text, self.flag, self.file, self.maybe


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, 1.0, "t", False, None, None)),
        ({"whole": 7, "real": 2, "text": "", "flag": True}, (7, 2.0, "", True, None, None)),
        ({"whole": "-7", "real": "1e3", "text": "7", "flag": "no"}, (-7, 1000.0, "7", False, None, None)),
        ({"flag": "True", "file": "a/b", "maybe": "3"}, (1, 1.0, "t", True, Path("a/b"), 3)),
        ({"file": Path("c"), "maybe": None, "whole": np.int64(3)}, (3, 1.0, "t", False, Path("c"), None)),
    ],
)
def test_parameters_are_converted_by_their_annotations_and_default_to_the_class(opened, given, expected):
    assert eau2.run(Taking, on=opened(1), **given) == [expected]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"whole": "x"}, "Taking.whole is int, not 'x'"),
        ({"whole": 1.5}, "Taking.whole is int, not 1.5"),
        ({"whole": True}, "Taking.whole is int, not True"),
        ({"real": "one"}, "Taking.real is float"),
        ({"text": 3}, "Taking.text is str, not 3"),
        ({"flag": 1}, "Taking.flag is bool, not 1"),
        ({"flag": "maybe"}, "Taking.flag is bool"),
        ({"file": ""}, "Taking.file is Path"),
        ({"whole": None}, "Taking.whole is int, not None"),
        ({"odd": [1]}, "Taking.odd is of a type that cannot be given"),
        ({"hole": 1}, "Taking has no parameter 'hole' (did you mean 'whole'?)"),
        ({"_private": 2}, "no parameter '_private'"),
        ({"unannotated": 2}, "no parameter 'unannotated'"),
        ({"xyz": 2}, "it has whole, real, text"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_anything_runs(opened, given, said):
    with pytest.raises(InvalidOption) as refused:
        eau2.run(Taking, on=opened(1), **given)
    assert said in str(refused.value)


def test_a_parameter_without_a_default_must_be_given_and_a_subclass_has_those_of_its_parents(opened):
    class Parent(eau2.Application):
        needed: int

        def run(self):
            return self.needed

    class Child(Parent):
        more: str = "m"

        def run(self):
            return self.more * self.needed

    store = opened(1)
    with pytest.raises(InvalidOption, match="Parent needs the parameter 'needed'"):
        eau2.run(Parent, on=store)
    assert eau2.run(Child, on=store, needed="2") == ["mm"]


@pytest.mark.parametrize("name", ["store", "barrier", "on", "timeout_seconds"])
def test_a_parameter_cannot_hide_what_eau2_itself_has(opened, name):
    program = type("Hiding", (eau2.Application,), {"run": lambda self: None, "__annotations__": {name: int}})
    with pytest.raises(InvalidOption, match=f"Hiding.{name} cannot be a parameter"):
        eau2.run(program, on=opened(1))
