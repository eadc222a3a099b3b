"""What a member tells of itself while its other threads go on."""

from __future__ import annotations

import gc
import threading
import time
from collections import OrderedDict

import pytest

from eau2.cluster.settling import items_now


class Slow:
    """Garbage whose end lets other threads run."""

    def __del__(self):
        time.sleep(0)


@pytest.fixture
def garbage_is_collected_often():
    before = gc.get_threshold()
    gc.set_threshold(50)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("garbage_is_collected_often")
def test_items_are_listed_while_others_change_them():
    known = OrderedDict(((number, "key"), (number,)) for number in range(4000))
    ended = threading.Event()

    def change():
        number = len(known)
        while not ended.is_set():
            known[number, "key"] = (number,)
            known.popitem(last=False)
            number += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            one, other = Slow(), Slow()
            one.other, other.other = other, one
            del one, other
            assert all(key[:1] == value for key, value in items_now(known))
    finally:
        ended.set()
        thread.join()
