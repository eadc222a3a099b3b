"""Ctrl-C at any step of a write: no lock stays, and what was written is whole."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.until import SECONDS_MAX

import eau2
from eau2.store.interrupts import heed, uninterrupted

CODE = str(Path(eau2.__file__).parent)
KEYS = [str(number) for number in range(6)]


class Lines:
    """Sends Ctrl-C before line number `number` of eau2's code in `folder` that `work` comes to."""

    def __init__(self, folder, number):
        self.code, self.left = f"{CODE}/{folder}/", number

    def __call__(self, work):
        sys.settrace(self._called)
        try:
            work()
        finally:
            sys.settrace(None)

    def _called(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(self.code) else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self._line


class Steps:
    """Raises Ctrl-C at step number `number` of eau2's code in `folder`, of those at which Python looks for signals:
    when a function begins, and when one that is not in Python has returned."""

    def __init__(self, folder, number):
        self.code, self.left = f"{CODE}/{folder}/", number

    def __call__(self, work):
        sys.setprofile(self._step)
        try:
            work()
        finally:
            sys.setprofile(None)

    def _step(self, frame, event, arg):
        code = frame.f_code
        in_ours = code.co_filename.startswith(self.code) and code.co_name != "<genexpr>"  # whose errors may get lost
        if in_ours and event in ("call", "c_return"):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def number_of(value):
    return int(value) if isinstance(value, bytes) else value.to_arrow()["n"][0].as_py()


def one(number):
    return {"0": b"%d" % number}


def several(number):
    return dict.fromkeys(KEYS, b"%d" % number)


def frames(number):
    return {key: {"n": [number]} for key in KEYS[:2]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # Ctrl-C came before anything was done
@pytest.mark.parametrize(
    ("nodes", "kind", "folder", "values", "every"),
    [
        (1, Steps, "store", one, 1),
        (1, Steps, "store", several, 1),
        (3, Lines, "cluster", one, 1),
        (3, Lines, "cluster", several, 5),
        (3, Lines, "cluster", frames, 5),
        pytest.param(3, Lines, "cluster", several, 1, marks=pytest.mark.long),
        pytest.param(3, Lines, "cluster", frames, 1, marks=pytest.mark.long),
        (3, Lines, "store", one, 1),
    ],
)
def test_a_write_that_ctrl_c_cuts_short_anywhere_is_whole_and_leaves_no_lock(
    tmp_path, nodes, kind, folder, values, every
):
    with (
        eau2.open(tmp_path / "store", nodes=nodes) as store,
        eau2.open(tmp_path / "store") as other,
        ThreadPoolExecutor(1) as thread,
    ):
        store.put_many(values(0))
        interrupted = True
        number = 0
        while interrupted:
            number += every
            shot = kind(folder, number)
            try:
                shot(lambda n=number: store.put_many(values(n)))
                interrupted = shot.left <= 0
            except KeyboardInterrupt:
                pass
            found = {number_of(value) for value in other.get_many(list(values(0))).values()}
            assert len(found) == 1, number
            assert found <= {number, number - every}, number
            other.put_many(values(number))  # in 30 seconds it would say that others write
            thread.submit(store.put_many, values(number)).result(SECONDS_MAX)
        assert number > 50, number
        assert store.check().faults == ()


def test_ctrl_c_is_heard_while_others_hold_a_lock(tmp_path):
    with eau2.open(tmp_path / "store", nodes=3) as store, eau2.open(tmp_path / "store") as other:
        lock = other.node._members.batches._lock
        assert lock.try_now()
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            store.put_many(several(1))
        timer.join()
        lock.release()
        store.put_many(several(2))


def test_ctrl_c_comes_at_the_end_and_to_the_handler_that_was_there():
    came = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
            assert came == []
            heed()
            assert came == [signal.SIGINT]
            signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT] * 2
        heed()
        signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT] * 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_takes_the_place_of_an_error_within():
    with pytest.raises(KeyboardInterrupt) as raised, uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError
    assert isinstance(raised.value.__context__, ValueError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_child_that_is_forked_meanwhile_hears_ctrl_c():
    with uninterrupted():
        child = os.fork()
        if child == 0:
            os._exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
