"""Short forms of tests/doors/soak.py; the long one is by hand."""

from __future__ import annotations

import pytest
from tests.doors.soak import Soak


@pytest.mark.slow
def test_many_connections_at_once_for_seconds(tmp_path):
    soak = Soak(tmp_path, idle=50, busy=20, seconds=5, seed=1, idle_seconds=2)
    soak.run()
    assert soak.wrong == []
    assert soak.figures["counts"].keys() >= {"operations", "kept", "let go", "garbage", "cut", "unread", "frames"}


@pytest.mark.long
def test_many_connections_at_once_for_minutes(tmp_path):
    soak = Soak(tmp_path, idle=200, busy=50, seconds=120, seed=2, idle_seconds=20)
    soak.run()
    assert soak.wrong == []
