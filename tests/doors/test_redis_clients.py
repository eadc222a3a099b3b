"""Clients of Redis as they are: redis-cli, redis-benchmark, redis-py."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import pytest
from tests.until import SECONDS_MAX

needs_tools = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-tools of the system")


def cli(served, *words, text=None):
    _, port = served.server.addresses["redis"]
    command = ["redis-cli", "-p", str(port), *words]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
    return done.stdout.splitlines()


@needs_tools
def test_redis_cli(served):
    assert cli(served, "SET", "k", "two words") == ["OK"]
    assert cli(served, "-3", "GET", "k") == ["two words"]
    assert cli(served, text="INCR n\nINCR n\nGET none\nNOSUCH\n") == ["1", "2", "", *cli(served, "NOSUCH")]
    served.store.put_many({f"key-{number:03}": b"x" for number in range(100)})
    assert sorted(cli(served, "--scan", "--pattern", "key-*")) == [f"key-{number:03}" for number in range(100)]


@needs_tools
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="needs redis-tools of the system")
@pytest.mark.parametrize("pipeline", [1, 16])
def test_redis_benchmark(served, pipeline):
    _, port = served.server.addresses["redis"]
    command = [
        "redis-benchmark",
        "-p",
        str(port),
        "-c",
        "50",
        "-n",
        "5000",
        "-t",
        "set,get,incr,mset",
        "-P",
        str(pipeline),
    ]
    done = subprocess.run([*command, "--csv"], capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
    tests = [line.split(",")[0].strip('"') for line in done.stdout.splitlines()]
    assert tests[1:] == ["SET", "GET", "INCR", "MSET (10 keys)"]
    assert 5000 <= int(served.store.get("counter:__rand_int__")) < 5000 + pipeline


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(served, protocol):
    redis = pytest.importorskip("redis", reason="needs redis-py")
    host, port = served.server.addresses["redis"]
    with redis.Redis(host, port, protocol=protocol) as client:
        assert client.set("k", "v")
        assert client.get("k") == served.store.get("k") == b"v"
        assert client.set("k", "w", nx=True) is None
        assert client.mset({f"k{number}": number for number in range(10)})
        assert client.mget("k0", "none", "k9") == [b"0", None, b"9"]
        assert client.incrby("k9", 5) == 14
        assert client.delete("k0", "k1", "none") == 2
        assert client.type("k2") == b"string"
        assert sorted(client.scan_iter("k*", count=3)) == sorted([b"k", *(b"k%d" % number for number in range(2, 10))])
        with client.pipeline(transaction=False) as pipeline:
            for number in range(500):
                pipeline.set(f"p{number}", number).get(f"p{number}")
            assert pipeline.execute() == [each for number in range(500) for each in (True, b"%d" % number)]
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            served.store.put("frame", {"a": [1]})
            client.get("frame")
        assert client.info()["nodes"] == 1
        assert client.client_list()[0]["db"] == "0"


def test_redis_py_async(served):
    aioredis = pytest.importorskip("redis.asyncio", reason="needs redis-py")
    host, port = served.server.addresses["redis"]

    async def work():
        async with aioredis.Redis(host=host, port=port) as client:
            await asyncio.gather(*(client.incr("n") for _ in range(50)))
            return await client.get("n")

    assert asyncio.run(work()) == b"50"
