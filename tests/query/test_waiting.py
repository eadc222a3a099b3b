"""The thread that asks the engine: it ends without a word when it is abandoned, whatever it is at."""

import ctypes
import threading
import time
from types import SimpleNamespace

import pytest
from tests.until import SECONDS_MAX

from eau2.errors import QueryError
from eau2.query import waiting


@pytest.mark.parametrize("slow", ["call", "return"])  # it has hardly begun, or is about to end
def test_a_thread_that_is_abandoned_at_any_moment_ends_without_a_word(monkeypatch, slow):
    said = []

    def dawdle(frame, event, _):
        if event == slow and frame.f_code is waiting._Caller._run.__code__:
            time.sleep(0.2)

    def interrupt_late(*arguments):
        time.sleep(0.05)
        return ctypes.pythonapi.PyThreadState_SetAsyncExc(*arguments)

    late = SimpleNamespace(PyThreadState_SetAsyncExc=interrupt_late)
    monkeypatch.setattr(threading, "excepthook", said.append)
    monkeypatch.setattr(
        waiting, "ctypes", SimpleNamespace(pythonapi=late, c_ulong=ctypes.c_ulong, py_object=ctypes.py_object)
    )
    threading.setprofile(dawdle)
    try:
        caller = waiting._Caller()
    finally:
        threading.setprofile(None)

    def ask():
        while not caller._abandoned:
            time.sleep(0.001)

    caller.calls.put(waiting._Call(ask))
    caller.abandon()
    caller.thread.join(SECONDS_MAX)
    assert not caller.thread.is_alive()
    assert said == []


def test_who_leaves_ends_what_is_waited_for_now_and_later():
    calls, begun, go_on = waiting.Calls(), threading.Event(), threading.Event()
    asker, raised = waiting.Asker(), []

    def dawdle():
        begun.set()
        while not go_on.wait(0.01):
            pass

    def ask():
        try:
            asker.run(lambda: calls.run(dawdle))
        except QueryError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(SECONDS_MAX)
    assert waiting.asker() is None  # of this thread
    asker.leave()
    thread.join(SECONDS_MAX)
    assert len(raised) == 1
    ask()
    assert len(raised) == 2
    go_on.set()
    assert calls.run(lambda: 7) == 7  # who has no asker is not concerned
    assert asker.run(lambda: 8) == 8  # nor what asks no engine
    waiting.end_idle()
