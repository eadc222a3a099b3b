"""Many puts of bytes in one statement: what the writer remembers of versions is what the rows say."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.store.two_nodes import TwoNodes

from eau2.store import changes, recent
from eau2.store.nodes import Kind, Write
from eau2.store.puts import Puts

KEYS = [f"k{number}" for number in range(10)]


def puts(payload, keys=KEYS):
    return [Write(key, Kind.BYTES, payload) for key in keys]


def puts_of(values):
    return [Write(key, Kind.BYTES, value) for key, value in values.items()]


@pytest.fixture
def looked_up(node, monkeypatch):
    """The keys of each look-up of many."""
    seen = []
    made = node._writing().changes
    run = made.run

    def noted(statement, bindings=()):
        if statement == changes._FIND_MANY:
            seen.append(run("select value from carray(?)", bindings).fetchall())
        return run(statement, bindings)

    monkeypatch.setattr(made, "run", noted)
    return seen


def test_versions_are_looked_up_once_while_nobody_else_writes(node, other, looked_up):
    assert node.write(puts(b"1")) == [1] * 10
    assert node.write(puts(b"2")) == [2] * 10
    assert node.write(puts(b"3", [*KEYS, "new"])) == [3] * 10 + [1]
    assert [len(keys) for keys in looked_up] == [10, 1]
    other.write(puts(b"4", ["k1"]))
    assert node.write(puts(b"5")) == [4, 5, *[4] * 8]
    assert len(looked_up[2:]) == 1


def test_puts_are_writes_to_whoever_looks(node):
    values = {key: key.encode() for key in KEYS}
    made = Puts.of(values, 10)
    assert list(made) == puts_of(values)
    assert made[-1] == puts_of(values)[-1]
    assert len(made) == 10
    assert node.write(made) == [1] * 10
    assert Puts.of(values, 1) is None
    assert Puts.of({**values, "k0": bytearray(b"1")}, 10) is None
    assert Puts.of({}, 10) is None


def test_what_is_remembered_has_an_end(node, looked_up, monkeypatch):
    monkeypatch.setattr(recent, "_KEYS_MAX", 5)
    for number in range(1, 4):
        assert node.write(puts(b"small")) == [number] * 10
    for number in range(4, 6):  # in the tree: too large to stay in front of it
        assert node.write(puts(bytes(5000))) == [number] * 10
    assert len(looked_up) == 5


@pytest.mark.parametrize("payload", [b"small", bytes(5000)])
def test_a_transaction_that_fails_is_not_remembered(node, payload):
    made = node._writing()
    node.write(puts(b"1"))

    def fail():
        made.changes.put_all(dict.fromkeys([*KEYS, "new"], payload))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made.transaction(fail)
    assert node.write(puts(b"2", [*KEYS, "new"])) == [2] * 10 + [1]
    assert node.check().faults == ()


class Together(TwoNodes):
    """Several writes in one transaction, many puts among them, over two connections, against a dict with versions."""

    payload = st.sampled_from([b"", b"small", bytes(300), bytes(1000), bytes(5000)])
    steps = st.lists(
        st.tuples(st.just("many"), payload)
        | st.tuples(st.just("one"), st.sampled_from(KEYS), payload)
        | st.tuples(st.just("delete"), st.sampled_from(KEYS)),
        min_size=1,
        max_size=4,
    )

    @rule(which=st.sampled_from([0, 0, 0, 1]), steps=steps, fails=st.sampled_from([False, False, False, True]))
    def write(self, which, steps, fails):
        model, last = dict(self.model), dict(self.last)
        writer = self.nodes[which]._writing()

        def change():
            for step in steps:
                self._step(writer.changes, step, model, last)
            if fails:
                raise ZeroDivisionError

        try:
            writer.transaction(change)
        except ZeroDivisionError:
            return
        self.model, self.last = model, last

    def _step(self, made, step, model, last):
        if step[0] == "delete":
            (outcome,) = made.write([Write(step[1], Kind.DELETED)])
            assert bool(outcome) is (step[1] in model)
            if model.pop(step[1], None) is not None:
                last[step[1]] = outcome
            return
        keys, payload = (KEYS, step[1]) if step[0] == "many" else ([step[1]], step[2])
        outcomes = made.write(puts(payload, keys))
        assert outcomes == [last.get(key, 0) + 1 for key in keys]
        last.update(zip(keys, outcomes, strict=True))
        model.update(dict.fromkeys(keys, payload))

    @invariant()
    def the_same(self):
        for node in getattr(self, "nodes", ()):
            found = {key: (entry.version, entry.payload) for key, entry in node.get_many(KEYS).items()}
            assert found == {key: (self.last[key], payload) for key, payload in self.model.items()}


TestTogether = pytest.mark.slow(Together.TestCase)
TestTogether.settings = settings(max_examples=40, stateful_step_count=15)
