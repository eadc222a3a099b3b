"""Answers that come when nobody waits for them any more."""

import asyncio
import logging
import threading

import pytest
import ray
from tests.until import SECONDS_MAX, until

from eau2.cluster.peer import Unreachable
from eau2.remote.ray import RayTransport


def test_an_answer_that_comes_after_who_asked_has_given_up_is_dropped(monkeypatch, caplog):
    asked, comes = threading.Event(), threading.Event()

    def get_actor(*_, **__):
        asked.set()
        comes.wait(SECONDS_MAX)
        raise ValueError("there is none")

    async def ask(transport):
        return await transport.call("node-0", "view", ((), {}), 0.05)

    monkeypatch.setattr(ray, "get_actor", get_actor)
    transport = RayTransport("absent")
    try:
        with caplog.at_level(logging.ERROR):
            for _ in range(5):  # more than there are threads that find whom to ask
                with pytest.raises(Unreachable):
                    asyncio.run(ask(transport))
            assert asked.is_set()
            comes.set()
            pending = transport.call("node-0", "view", ((), {}), SECONDS_MAX)
            with pytest.raises(Unreachable):
                pending.result()
        assert caplog.records == []
    finally:
        transport.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("eau2-finding")])
