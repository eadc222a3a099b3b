"""Four key-value stores behind the same four functions, each used the way its documentation says is fast."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import diskcache
import lmdb
import redis

import eau2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAP_BYTES = 1 << 30
Pairs = dict[str, bytes]


@dataclass(frozen=True)
class Engine:
    """`get` and `put` take one key, `get_many` a list of keys, `put_many` a dict: all of it at once, or not at all."""

    get: Callable[[str], object]
    put: Callable[[str, bytes], object]
    get_many: Callable[[list[str]], object]
    put_many: Callable[[Pairs], object]
    close: Callable[[], object]


def names() -> list[str]:
    """The engines that can run here: redis only where its server is installed (benchmarks/install_peers.sh)."""
    return ["eau2", "lmdb", "diskcache", *(["redis"] if shutil.which("redis-server") else [])]


def connect(name: str, folder: str, flush: str) -> Engine:
    """Open the engine `name` in `folder`; for redis, reach the server that `serving` has started there."""
    return _CONNECT[name](folder, flush)


@contextlib.contextmanager
def serving(name: str, folder: str, flush: str) -> Iterator[None]:
    """What must run besides the clients of engine `name`: a server for redis, nothing for the others."""
    os.makedirs(folder, exist_ok=True)
    if name != "redis":
        yield
        return
    # A unix socket is the fastest way in, and its path is surely free.
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if flush == "power" else ["--appendonly", "no"]
    command = ["redis-server", "--port", "0", "--unixsocket", _socket(folder), "--dir", folder, "--save", "", *durable]
    with open(os.path.join(folder, "log"), "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _until_it_answers(folder, server)
        yield
    finally:
        server.terminate()
        server.wait(timeout=30)


def _socket(folder: str) -> str:
    return os.path.join(folder, "socket")  # at most 107 bytes, or the kernel refuses it


def _until_it_answers(folder: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            redis.Redis(unix_socket_path=_socket(folder)).ping()
            return
        except redis.ConnectionError:
            time.sleep(0.02)
    raise RuntimeError(f"redis-server did not answer; see {folder}/log")


def _eau2(folder: str, flush: str) -> Engine:
    store = eau2.open(folder, flush=flush)  # type: ignore[arg-type]
    return Engine(store.get, store.put, store.get_many, store.put_many, store.close)


def _lmdb(folder: str, flush: str) -> Engine:
    env = lmdb.open(folder, map_size=MAP_BYTES, sync=flush == "power", metasync=flush == "power", max_readers=64)

    def get(key: str) -> object:
        with env.begin() as transaction:
            return transaction.get(key.encode())

    def put(key: str, value: bytes) -> None:
        with env.begin(write=True) as transaction:
            transaction.put(key.encode(), value)

    def get_many(keys: list[str]) -> object:
        with env.begin() as transaction, transaction.cursor() as cursor:
            return cursor.getmulti([key.encode() for key in keys])

    def put_many(values: Pairs) -> None:
        with env.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti([(key.encode(), value) for key, value in values.items()])

    return Engine(get, put, get_many, put_many, env.close)


def _diskcache(folder: str, flush: str) -> Engine:
    synchronous = 2 if flush == "power" else 1  # FULL flushes the log at every commit
    cache = diskcache.Cache(folder, eviction_policy="none", size_limit=MAP_BYTES, sqlite_synchronous=synchronous)

    def get_many(keys: list[str]) -> object:
        with cache.transact():
            return [cache.get(key) for key in keys]

    def put_many(values: Pairs) -> None:
        with cache.transact():
            for key, value in values.items():
                cache.set(key, value)

    return Engine(cache.get, cache.set, get_many, put_many, cache.close)


def _redis(folder: str, flush: str) -> Engine:  # the server knows the flush level
    client = redis.Redis(unix_socket_path=_socket(folder))
    return Engine(client.get, client.set, client.mget, client.mset, client.close)


_CONNECT: dict[str, Callable[[str, str], Engine]] = {
    "eau2": _eau2,
    "lmdb": _lmdb,
    "diskcache": _diskcache,
    "redis": _redis,
}
