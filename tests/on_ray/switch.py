"""A switch between network interfaces that loses and delays what it is told to, as not every kernel can.

python -m tests.on_ray.switch HOST...

Runs where each HOST is an interface whose other end, of the name "to-HOST", is to be moved to that host when it says
"ready". Each line of its input is a JSON object {"HOST to" or "HOST from": [loss, delay in seconds]}: what happens to
frames on their way to HOST, or from it; none of what is not named. It answers each with a line.
"""

from __future__ import annotations

import array
import errno
import fcntl
import heapq
import itertools
import json
import random
import selectors
import socket
import struct
import sys
import time

FRAME_BYTES_MAX = 65536
BUFFER_BYTES = 32 << 20
_EVERYTHING = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING: what we send ourselves
_RECEIVE_BUFFER_FORCED = 33
_ETHTOOL = 0x8946
_OFFLOADS = (0x17, 0x1F, 0x24)  # checksums, segments of TCP, segments of all: frames are to be as on a wire


def as_on_a_wire(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for offload in _OFFLOADS:
            off = array.array("B", struct.pack("II", offload, 0))
            address, _ = off.buffer_info()
            fcntl.ioctl(control, _ETHTOOL, struct.pack("16sP16x", interface.encode(), address))


class Switch:
    def __init__(self, hosts: list[str]):
        self._ports: dict[str, socket.socket] = {}
        self._where: dict[bytes, str] = {}  # host by its hardware address
        self._rules: dict[str, list[float]] = {}
        self._late: list[tuple[float, int, str, bytes]] = []
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        for host in hosts:
            as_on_a_wire(host)
            as_on_a_wire(f"to-{host}")
            port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
            port.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCED, BUFFER_BYTES)
            port.bind((host, 0))
            port.setblocking(False)
            self._ports[host] = port
            self._selector.register(port, selectors.EVENT_READ, host)
        self._selector.register(sys.stdin, selectors.EVENT_READ, "")

    def run(self) -> None:
        print("ready", flush=True)
        while True:
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for key, _ in self._selector.select(wait):
                if key.data:
                    self._take(key.data)
                elif line := sys.stdin.readline():
                    self._rules = json.loads(line)
                    print("done", flush=True)
                else:
                    return
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, host, frame = heapq.heappop(self._late)
                self._put(host, frame)

    def _take(self, host: str) -> None:
        for _ in range(100):  # others have their turn, too
            try:
                frame, about = self._ports[host].recvfrom(FRAME_BYTES_MAX)
            except OSError:  # there is none, or the interface is down
                return
            if about[2] == _OUTGOING:
                continue
            self._where[frame[6:12]] = host
            to = self._where.get(frame[:6])
            for other in [to] if to else [one for one in self._ports if one != host]:
                self._pass(host, other, frame)

    def _pass(self, host: str, other: str, frame: bytes) -> None:
        rules = [self._rules.get(f"{host} from", (0, 0)), self._rules.get(f"{other} to", (0, 0))]
        if any(random.random() < loss for loss, _ in rules):
            return
        seconds = sum(delay for _, delay in rules)
        if seconds:
            heapq.heappush(self._late, (time.monotonic() + seconds, next(self._numbers), other, frame))
        else:
            self._put(other, frame)

    def _put(self, host: str, frame: bytes) -> None:
        try:
            self._ports[host].send(frame)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ENETDOWN, errno.ENXIO):
                raise  # else it is lost, as on any network


if __name__ == "__main__":
    Switch(sys.argv[1:]).run()
