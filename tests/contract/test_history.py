"""Several processes and threads at once: one order explains all they saw."""

import functools
import time
from dataclasses import replace

import pytest
from tests.contract.history import KEYS, Deed, act, contradictions
from tests.until import SECONDS_MAX

import eau2

GOOD = [
    Deed("write", "x", 0, 10, "a", 1),
    Deed("read", "x", 5, 6, ""),
    Deed("write", "x", 20, 30, "b", 2, 1),
    Deed("read", "x", 22, 24, "b", 2),
    Deed("read", "x", 25, 26, "b"),
    Deed("delete", "x", 40, 50),
    Deed("read", "x", 45, 46, "b"),
    Deed("read", "x", 60, 70, ""),
    Deed("write", "x", 80, 90, "c", 4),
]


def test_a_history_with_an_order_has_no_contradictions():
    assert contradictions(GOOD) == []


@pytest.mark.parametrize(
    ("index", "change", "said"),
    [
        pytest.param(4, {"value": "a", "start": 31, "end": 32}, "had ended", id="a stale read"),
        pytest.param(7, {"value": "b"}, "had ended", id="a read of what was deleted"),
        pytest.param(4, {"value": "q"}, "nobody had written", id="a value out of nowhere"),
        pytest.param(1, {"value": "c"}, "nobody had written", id="a value from the future"),
        pytest.param(4, {"value": "", "start": 31, "end": 32}, "saw nothing", id="a value that vanished"),
        pytest.param(8, {"version": 2}, "one version", id="a version twice"),
        pytest.param(8, {"version": 1.5}, "ended before|is between", id="versions against time"),
        pytest.param(2, {"replaces": 7}, "is between", id="a condition that did not hold"),
        pytest.param(3, {"version": 9}, "another version", id="a frame with a wrong version"),
    ],
)
def test_a_history_without_an_order_is_found_out(index, change, said):
    deeds = [replace(deed, **change) if number == index else deed for number, deed in enumerate(GOOD)]
    assert any(said_one in sentence for sentence in contradictions(deeds) for said_one in said.split("|"))


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["process", "power"])
@pytest.mark.parametrize("seed", range(3))
def test_one_order_explains_what_processes_and_threads_saw(tmp_path, processes, flush, seed):
    opener = functools.partial(eau2.open, str(tmp_path / "store"), flush=flush)
    out = processes.Queue()
    with opener() as store:
        started = [processes.Process(target=act, args=(opener, seed * 10 + number, 2, 1.2, out)) for number in range(3)]
        for process in started:
            process.start()
        deeds = [deed for _ in started for deed in out.get(timeout=SECONDS_MAX)]
        for process in started:
            process.join(SECONDS_MAX)
            assert process.exitcode == 0
        for key in KEYS:  # the final state is read last
            found = store.get(key, default=None)
            now = time.monotonic_ns()
            if isinstance(found, bytes):
                deeds.append(Deed("read", key, now, now, found.decode()))
            else:
                value = "" if found is None else found.to_arrow()["value"][0].as_py()
                deeds.append(Deed("read", key, now, now, value))
        assert store.check().faults == ()
    kinds = [deed.what for deed in deeds]
    assert min(kinds.count(what) for what in ("write", "read", "delete")) > 10
    assert contradictions(deeds) == []
