"""Clients of a soak in one process: python -m tests.doors.soak_clients PLAN, in JSON; it prints what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import socket
import sys
import time
from collections import Counter

import numpy as np
import pyarrow as pa
from tests.doors.talk import TALKS, Datagrams, Deed, Talk

import eau2
from eau2.doors.datagrams import Code

REPLY_SECONDS_MAX = 120.0  # a reply that takes longer is lost
WRONG_MAX = 20  # of them are told
COUNTERS = 8
KINDS = ("idle", "sleeper", "worker", "datagrams", "http", "frames", "garbage", "cutter", "unread")
RESENT_SECONDS = (0.1, 0.2, 0.4)  # for a server keeps its replies for five seconds only


class Wrong(Exception):
    """A reply that is not what it must be."""


class Arrived(asyncio.DatagramProtocol):
    """Keeps what has come, also while nobody waits for it."""

    def __init__(self):
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.messages.put_nowait(data)


class Clients:
    """All clients of this process."""

    def __init__(self, plan):
        self.plan, self.doors = plan, {name: tuple(where) for name, where in plan["doors"].items()}
        self.ends = time.monotonic() + plan["seconds"]
        self.counts: Counter[str] = Counter()
        self.added: Counter[str] = Counter()  # by counter
        self.wrong: list[str] = []

    async def run(self):
        plan, number = self.plan, 0
        async with asyncio.TaskGroup() as all_:
            for kind in KINDS:
                for _ in range(plan.get(kind, 0)):
                    chance = random.Random(f"{plan['seed']} {kind} {number}")
                    name = f"{plan['seed']}-{number}"
                    number += 1
                    all_.create_task(self._go_on(getattr(self, f"_{kind}"), name, chance))

    async def _go_on(self, client, name, chance):
        """Have `client` come again until the end."""
        times = 0
        while time.monotonic() < self.ends:
            times += 1
            try:
                async with asyncio.timeout(None) as patience:
                    await client(f"{name}-{times}", chance, patience)
            except (Wrong, OSError, EOFError, TimeoutError, AssertionError) as error:
                self.counts["wrong"] += 1
                if len(self.wrong) < WRONG_MAX:
                    self.wrong.append(f"{client.__name__[1:]} {name}: {error!r}"[:500])
                await asyncio.sleep(0.1)

    def _left(self) -> float:
        return self.ends - time.monotonic()

    async def _connect(self, chance) -> tuple[Talk, asyncio.StreamReader, asyncio.StreamWriter]:
        door = chance.choice([name for name in TALKS if name in self.doors])
        self.counts["connections"] += 1
        return TALKS[door], *await asyncio.open_connection(*self.doors[door], limit=1 << 20)

    # -- who ask nothing, or little -----------------------------------------------------------------------------------

    async def _idle(self, name, chance, patience):
        """Asks just often enough to be kept."""
        talk, reader, writer = await self._connect(chance)
        with contextlib.closing(writer):
            while (left := self._left()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, chance.uniform(0.2, 0.6) * self.plan["idle_seconds"])):
                        raise Wrong(f"unasked {await reader.read(100)!r}")
                writer.write(talk.idle[0])
                await self._read(reader, talk.idle[1], patience)
                self.counts["kept"] += 1

    async def _sleeper(self, name, chance, patience):
        """Asks nothing, and is let go for it, not earlier than it must be."""
        began = time.monotonic()
        _, reader, writer = await self._connect(chance)
        with contextlib.closing(writer):
            try:
                async with asyncio.timeout(min(self._left(), self.plan["idle_seconds"] + REPLY_SECONDS_MAX)):
                    said = await reader.read()
            except TimeoutError:
                if self._left() > 0:
                    raise
                return
            if b"idle for" not in said or time.monotonic() - began < self.plan["idle_seconds"]:
                raise Wrong(f"let go after {time.monotonic() - began:.1f} s: {said!r}")
            self.counts["let go"] += 1

    # -- who check every reply ----------------------------------------------------------------------------------------

    async def _worker(self, name, chance, patience):
        """Converses about keys of its own, and counters of all."""
        talk, reader, writer = await self._connect(chance)
        keys: dict[str, bytes] = {}
        seen: dict[str, int] = {}
        with contextlib.closing(writer):
            for batch in range(chance.randint(1, 200)):
                if self._left() < 0:
                    break
                deeds = [self._deed(name, batch, chance, talk.verbs) for _ in range(chance.choice((1, 1, 1, 2, 8, 30)))]
                writer.write(b"".join(map(talk.asked, deeds)))
                for deed in deeds:
                    if deed.verb == "increment":
                        await self._increment(talk, deed.key, seen, reader, patience)
                    else:
                        await self._read(reader, talk.answered(deed, deed.done(keys)), patience)
                    self.counts["operations"] += 1
            rest = [Deed("delete", key) for key in sorted(keys)]  # so that the store does not grow
            asked = b"".join(map(talk.asked, rest))
            answered = b"".join(talk.answered(deed, deed.done(keys)) for deed in rest)
            farewell = chance.choice(("goodbye", "half", "cut"))
            said = {"goodbye": talk.goodbye, "half": (b"", b""), "cut": (talk.cut, b"")}[farewell]
            writer.write(asked + said[0])
            if farewell == "half":
                writer.write_eof()
            await self._read(reader, answered + said[1], patience)
            if farewell == "cut":
                writer.transport.abort()
            elif more := await reader.read():
                raise Wrong(f"after the end {more!r}")
            self.counts["operations"] += len(rest)

    async def _read(self, reader, expected, patience):
        patience.reschedule(asyncio.get_running_loop().time() + REPLY_SECONDS_MAX)
        received = await reader.readexactly(len(expected))
        patience.reschedule(None)
        if received != expected:
            raise Wrong(f"{received[:80]!r}, not {expected[:80]!r}")

    async def _increment(self, talk, counter, seen, reader, patience):
        patience.reschedule(asyncio.get_running_loop().time() + REPLY_SECONDS_MAX)
        number = talk.number(await reader.readline())
        patience.reschedule(None)
        self.added[counter] += 1
        if number <= seen.get(counter, 0):
            raise Wrong(f"{counter} came to {number} after {seen[counter]}")
        seen[counter] = number

    def _deed(self, name, batch, chance, verbs) -> Deed:
        verb = chance.choice(verbs)
        if verb == "increment":
            return Deed(verb, f"counter-{chance.randrange(COUNTERS)}")
        key = f"{name}-{chance.randrange(10)}"
        if verb not in ("create", "update", "put"):
            return Deed(verb, key)
        size = chance.choice((0, 10, 100, 100, 1000, 5000)) if chance.random() < 0.99 or verb == "put" else 100_000
        return Deed(verb, key, (b"%b %d\n" % (key.encode(), batch)).ljust(size, b"."))

    async def _datagrams(self, name, chance, patience):
        """Asks by UDP, again with the same id where no answer comes."""
        talk, keys, loop = Datagrams(), {}, asyncio.get_running_loop()
        transport, arrived = await loop.create_datagram_endpoint(Arrived, remote_addr=self.doors["udp"])
        with contextlib.closing(transport):
            deeds = [self._deed(name, batch, chance, talk.verbs) for batch in range(chance.randint(1, 300))]
            for deed in [*deeds, *(Deed("delete", f"{name}-{number}") for number in range(10))]:
                if self._left() < 0 and deed.verb != "delete":
                    continue
                identity = chance.randbytes(16)
                expected = talk.answered(identity, deed, deed.done(keys))
                received = await self._exchanged(transport, arrived, talk.asked(identity, deed))
                if received != expected:
                    raise Wrong(f"{deed.verb} came to {received[:80]!r}, not {expected[:80]!r}")
                self.counts["operations"] += 1

    async def _exchanged(self, transport, arrived, message) -> bytes:
        for seconds in (*RESENT_SECONDS, REPLY_SECONDS_MAX):
            # Not when the answer lies here: the server may have forgotten it by now, and would do it again.
            if arrived.messages.empty():
                transport.sendto(message)
            self.counts["resent"] += seconds != RESENT_SECONDS[0]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while True:
                        received = await arrived.messages.get()
                        if received[:16] != message[:16]:  # it answers what was asked twice
                            continue
                        if received[16] != Code.OVERLOADED:
                            return received
                        self.counts["overloaded"] += 1
                        await asyncio.sleep(0.05)
                        transport.sendto(message)
        raise Wrong("no answer by UDP")

    async def _http(self, name, chance, patience):
        """Puts, gets and deletes by HTTP, on one connection."""
        reader, writer = await asyncio.open_connection(*self.doors["http"], limit=1 << 20)
        self.counts["connections"] += 1
        keys: dict[str, bytes] = {}
        with contextlib.closing(writer):
            deeds = [
                self._deed(name, batch, chance, ("put", "get", "delete")) for batch in range(chance.randint(1, 100))
            ]
            for deed in [*deeds, *(Deed("delete", f"{name}-{number}") for number in range(10))]:
                if self._left() < 0 and deed.verb != "delete":
                    continue
                was = keys.get(deed.key)
                expected = {"get": (404 if was is None else 200, was), "delete": (404 if was is None else 204, None)}
                status, value = expected.get(deed.verb, (201 if was is None else 204, None))
                deed.done(keys)
                head = f"{deed.verb.upper()} /keys/{deed.key} HTTP/1.1\r\nHost: localhost\r\n"
                sent = deed.value if deed.verb == "put" else b""
                writer.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
                patience.reschedule(asyncio.get_running_loop().time() + REPLY_SECONDS_MAX)
                told = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(told.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                body = await reader.readexactly(size)
                patience.reschedule(None)
                if int(told.split()[1]) != status or (value is not None and body != value):
                    raise Wrong(f"{deed.verb} of {was!r:.40} came to {told[:80]!r} {body[:80]!r}, not {status}")
                self.counts["operations"] += 1

    async def _frames(self, name, chance, patience):
        """Puts, gets and asks of frames by Flight."""
        patience.reschedule(asyncio.get_running_loop().time() + REPLY_SECONDS_MAX)
        self.counts["frames"] += await asyncio.to_thread(self._exchange_frames, name, chance)

    def _exchange_frames(self, name, chance) -> int:
        host, port = self.doors["flight"]
        rounds = chance.randint(1, 20)
        with eau2.open(f"eau2://{host}:{port}") as store:
            for number in range(rounds):
                table = pa.table({"n": np.arange(chance.randrange(10_000)) + number})
                store.put(name, table)
                if not store.frame(name).to_arrow().equals(table):
                    raise Wrong(f"{name} is another frame")
                total = store.sql(f'select count(*) as n from "{name}"').to_arrow()["n"].to_pylist()
                if total != [len(table)]:
                    raise Wrong(f"{name} has {total}, not {len(table)} rows")
            store.delete(name)
        return rounds

    # -- who do harm --------------------------------------------------------------------------------------------------

    async def _garbage(self, name, chance, patience):
        """Sends what is no request, and reads what it is told for some time."""
        _, reader, writer = await self._connect(chance)
        with contextlib.closing(writer), contextlib.suppress(OSError, TimeoutError):
            for _ in range(chance.randint(1, 20)):
                part = chance.choice(
                    (b"\n", b"C k #5\n", b"*2\r\n$3\r\n", b"AUTH x\n", b"R \xff\n", b"*-1\r\n", b"'\n")
                )
                writer.write(chance.randbytes(chance.choice((1, 30, 3000))) + part)
                async with asyncio.timeout(chance.uniform(0.01, 0.2)):
                    while await reader.read(1 << 16):
                        pass
                    break
        self.counts["garbage"] += 1

    async def _cutter(self, name, chance, patience):
        """Leaves amid a request, or before it has its replies, and resets the connection."""
        talk, _, writer = await self._connect(chance)
        with contextlib.closing(writer):
            writer.write(talk.idle[0] * chance.randrange(50) + talk.cut[: chance.randrange(len(talk.cut))])
            await asyncio.sleep(chance.uniform(0, 0.3))
            if chance.random() < 0.7:
                writer.transport.abort()
        self.counts["cut"] += 1

    async def _unread(self, name, chance, patience):
        """Asks for much and reads nothing, for a minute at most: it is let go, or leaves."""
        door = chance.choice([door for door in TALKS if door in self.doors])
        with socket.socket() as asked, contextlib.suppress(OSError, TimeoutError):
            asked.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(min(max(self._left(), 0.1), chance.uniform(1, 60))):
                await loop.sock_connect(asked, self.doors[door])
                while True:
                    await loop.sock_sendall(asked, TALKS[door].large * 10)
                    await asyncio.sleep(0.5)
        self.counts["unread"] += 1


def main() -> None:
    plan = json.loads(sys.argv[1])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    clients = Clients(plan)
    asyncio.run(clients.run())
    print(json.dumps({"counts": clients.counts, "added": clients.added, "wrong": clients.wrong}))


if __name__ == "__main__":
    main()
