import http.client
import json
import socket
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.until import SECONDS_MAX

import eau2
from eau2.doors.server import Doors, Server


class Client:
    """A connection for CRUD lines, byte by byte."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=SECONDS_MAX)
        self.replies = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        line = self.replies.readline()
        if not line.startswith(b"VALUE "):
            return line
        size = int(line[6:])
        value = self.replies.read(size + 1)
        assert value[size:] == b"\n"
        return value[:-1]

    def ask(self, data):
        self.send(data + b"\n")
        return self.reply()

    def rest(self):
        return self.replies.read()

    def close(self):
        self.replies.close()
        self.socket.close()


class RedisError(Exception):
    """A reply that begins with a minus."""


class RedisClient:
    """A connection that speaks RESP: replies as Python has them."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=SECONDS_MAX)
        self.replies = self.socket.makefile("rb")

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))

    def reply(self):
        head = self.replies.readline()
        assert head[-2:] == b"\r\n", head
        kind, rest = head[:1], head[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"_" or rest == b"-1":
            return None
        if kind == b"$":
            value = self.replies.read(int(rest) + 2)
            assert value[-2:] == b"\r\n"
            return value[:-2]
        many = [self.reply() for _ in range(int(rest) * (2 if kind == b"%" else 1))]
        return dict(zip(many[::2], many[1::2], strict=True)) if kind == b"%" else many

    def ask(self, *words):
        self.send(*words)
        return self.reply()

    def close(self):
        self.replies.close()
        self.socket.close()


class Answered(NamedTuple):
    """An answer of HTTP."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def tag(self):
        return self.headers["ETag"]


class HttpClient:
    """A connection that speaks HTTP; paths go as they are."""

    def __init__(self, address, **headers):
        self.connection = http.client.HTTPConnection(*address, timeout=SECONDS_MAX)
        self.headers = headers

    def ask(self, method, path, body=None, **headers):
        """Headers as keywords: `if_match='"1"'`."""
        given = {name.replace("_", "-"): value for name, value in {**self.headers, **headers}.items()}
        self.connection.request(method, path, body, given)
        answer = self.connection.getresponse()
        return Answered(answer.status, answer.read(), answer.headers)

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def put(self, path, body, **headers):
        return self.ask("PUT", path, body, **headers)

    def sql(self, text, path="/sql", **headers):
        return self.ask("POST", path, text.encode(), **{"content_type": "text/plain", **headers})

    def close(self):
        self.connection.close()


class Served:
    """A store and its server, and clients of it."""

    def __init__(self, store, stack):
        self.store, self._stack = store, stack

    def open(self, doors=None, **options):
        self.server = self._stack.enter_context(Server(self.store, doors or Doors(), **options))
        return self

    def lines(self):
        client = Client(self.server.addresses["crud"])
        self._stack.callback(client.close)
        return client

    def redis(self):
        client = RedisClient(self.server.addresses["redis"])
        self._stack.callback(client.close)
        return client

    def http(self, **headers):
        client = HttpClient(self.server.addresses["http"], **headers)
        self._stack.callback(client.close)
        return client

    def raw(self, data):
        """A connection to the HTTP door that has sent `data`."""
        asked = self._stack.enter_context(socket.create_connection(self.server.addresses["http"], timeout=SECONDS_MAX))
        asked.sendall(data)
        return asked

    def datagrams(self):
        asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(asked.close)
        asked.settimeout(SECONDS_MAX)
        asked.connect(self.server.addresses["udp"])
        return asked


@pytest.fixture
def unserved(tmp_path):
    with ExitStack() as stack:
        yield Served(stack.enter_context(eau2.open(tmp_path / "store")), stack)


@pytest.fixture
def served(unserved):
    return unserved.open()


@pytest.fixture(params=[1, 3])
def served_by(tmp_path, request):
    """A store of one node, and one of three."""
    with ExitStack() as stack:
        store = stack.enter_context(eau2.open(tmp_path / "store", nodes=request.param))
        yield Served(store, stack).open()
