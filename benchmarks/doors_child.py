"""One process of clients for doors.py: DOOR PORT CLIENTS COUNT. Prints how many requests a second were answered."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time

VALUE = b"v" * 100


def request(door: str, client: int, number: int) -> bytes:
    """The next request of a client: a put and a get in turn."""
    key = b"key-%d-%d" % (client, number // 2 % 1000)
    if door == "udp":
        head = os.urandom(16) + (b"\x02" if number % 2 else b"\x01") + key.ljust(32, b"\0")
        return head if number % 2 else head + len(VALUE).to_bytes(2, "little") + VALUE
    return b"R %b\n" % key if number % 2 else b"C %b %b\n" % (key, VALUE)


def answered(door: str, client: socket.socket) -> bool:
    """Take what has come to `client`; whether it is a whole reply."""
    data = client.recv(65_536)
    assert data, "the server has gone"
    return door == "udp" or not data.startswith(b"VALUE") or data.count(b"\n") == 2


def main(door: str, port: int, clients: int, count: int) -> None:
    kind = socket.SOCK_DGRAM if door == "udp" else socket.SOCK_STREAM
    ready = selectors.DefaultSelector()
    sent = [0] * clients
    for index in range(clients):
        client = socket.socket(socket.AF_INET, kind)
        client.connect(("127.0.0.1", port))
        ready.register(client, selectors.EVENT_READ, index)
    keys = list(ready.get_map().values())
    start, done, asked = time.perf_counter(), 0, 0
    for key in keys:
        key.fileobj.send(request(door, key.data, 0))
        asked += 1
    while done < count:
        found = ready.select(30)
        assert found, "no reply within 30 seconds"
        for key, _ in found:
            if not answered(door, key.fileobj):
                continue
            done += 1
            if asked < count:
                sent[key.data] += 1
                asked += 1
                key.fileobj.send(request(door, key.data, sent[key.data]))
    print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
