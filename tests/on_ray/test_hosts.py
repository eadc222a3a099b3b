"""Between hosts: links are cut, half-cut, lossy and slow while everything is done. Nothing acknowledged is lost, no
answer is wrong, all ends."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time

import pytest
from tests.on_ray.hosts import Hosts, why_not
from tests.on_ray.log import LONGEST_SECONDS_MAX, Told
from tests.until import until

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(1800)]

COUNT = 3
LOAD_SECONDS, FAULT_SECONDS = 30.0, 15.0  # longer than Ray and eau2 take to give a host up
_numbers = itertools.count()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def hosts(data):
    if why := why_not():
        pytest.skip(why)
    with Hosts(COUNT) as hosts:
        until(lambda: hosts.deployed(data))
        hosts.said("host-0", "-m", "tests.on_ray.settle", hosts.store, "begin")
        yield hosts


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Of all tests: the later ones read what the earlier ones wrote."""
    return tmp_path_factory.mktemp("logs")


@contextlib.contextmanager
def supervised(hosts):
    """Raylets that end are started again: those do that were given up, when they hear of it."""
    ended = threading.Event()

    def supervise():
        while not ended.wait(1.0):
            hosts.start_raylets(hosts.names)

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def loaded(hosts, data, logs):
    """Within this, drivers do everything on the head's host; then all of it is checked."""

    @contextlib.contextmanager
    def loading():
        drivers = {}
        try:
            for options in ([], ["--linus"]):
                name = f"h{next(_numbers)}"
                command = ["-m", "tests.on_ray.load", hosts.store, logs / f"{name}.log", name, LOAD_SECONDS, *options]
                drivers[name] = hosts.start("host-0", *command, out=logs / f"{name}.txt")
            until(lambda: all((logs / f"{name}.log").exists() for name in drivers))
            time.sleep((LOAD_SECONDS - FAULT_SECONDS) / 2)
            yield
            ended = {name: driver.wait(LOAD_SECONDS + LONGEST_SECONDS_MAX) for name, driver in drivers.items()}
        finally:
            for driver in drivers.values():
                driver.kill()
                driver.wait()
        assert ended == dict.fromkeys(drivers, 0), "".join((logs / f"{name}.txt").read_text() for name in drivers)
        until(lambda: hosts.deployed(data))
        said = hosts.said("host-0", "-m", "tests.on_ray.settle", hosts.store, "end", logs)
        told = Told.of(logs.glob("*.log"))
        print(told)
        assert json.loads(said.splitlines()[-1]) + told.verdict() == []
        assert told.verbs.keys() >= {"put frame", "put bytes", "get", "linus program"}

    with supervised(hosts):
        yield loading


def test_a_chunk_on_another_host_is_brought_over_the_link(hosts):
    code = f"""if True:
        import eau2, tests.on_ray.load
        with eau2.open({hosts.store!r}) as store:
            store.put("f", tests.on_ray.load.table("a.1000"), node="host-1")
            found = store.frame("f").to_arrow()
            print(tests.on_ray.load.whole(*tests.on_ray.load.sums(found)), store.node._cache.brought_bytes > 0)"""
    assert hosts.said("host-0", "-c", code) == "a.1000 True\n"


@pytest.mark.parametrize("seconds", [4.0, FAULT_SECONDS], ids=["for a moment", "until it is given up"])
def test_a_link_is_cut(hosts, loaded, seconds):
    with loaded(), hosts.shaped(["host-1"], loss=1.0):
        time.sleep(seconds)


@pytest.mark.parametrize("way", ["to", "from"])
def test_a_link_is_cut_in_one_direction(hosts, loaded, way):
    with loaded(), hosts.shaped(["host-1"], ways=[way], loss=1.0):
        time.sleep(FAULT_SECONDS)


def test_links_lose_one_of_twenty(hosts, loaded):
    with loaded(), hosts.shaped(hosts.names, ways=["to"], loss=0.05):
        time.sleep(FAULT_SECONDS)


def test_links_are_slow(hosts, loaded):
    with loaded(), hosts.shaped(hosts.names, ways=["to"], delay_seconds=0.1):
        time.sleep(FAULT_SECONDS)
