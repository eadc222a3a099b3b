"""A server as a stranger meets it: signals under load, ports that are taken, and nobody who reads what it says."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading

import pytest
from tests.cli.test_doors import EAU2, serving
from tests.until import SECONDS_MAX, until

import eau2 as library

pytestmark = pytest.mark.slow
DOORS = ("flight", "http", "crud", "redis", "udp")


def ports(**given):
    """Return the options for these ports, and any that are free for other doors."""
    return [word for door in DOORS for word in (f"--{door}-port", str(given.get(door, 0)))]


def ask(address, line):
    with socket.create_connection(address, SECONDS_MAX) as client:
        client.sendall(line)
        return client.recv(100)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_when_a_signal_comes_amid_load(tmp_path, number):
    replies: dict[int, bytes] = {}
    loaded = threading.Barrier(9)

    def load(name, address):
        with socket.create_connection(address, SECONDS_MAX) as client:
            client.sendall(b"".join(b"C %d/%d x\n" % (name, each) for each in range(3000)))
            received = client.recv(1 << 16)
            loaded.wait(SECONDS_MAX)
            with contextlib.suppress(ConnectionResetError):  # where half a second was not enough for all
                while data := client.recv(1 << 16):
                    received += data
            replies[name] = received

    with serving(tmp_path / "store") as (server, said):
        clients = [threading.Thread(target=load, args=(name, said["doors"]["crud"])) for name in range(8)]
        for client in clients:
            client.start()
        loaded.wait(SECONDS_MAX)
        server.send_signal(number)
        for client in clients:
            client.join(SECONDS_MAX)
        assert server.wait(SECONDS_MAX) == 0
        *_, stopped = map(json.loads, server.stderr)
    assert stopped["event"] == "stopped"
    assert all(set(said.split(b"\n")) <= {b"OK", b""} for said in replies.values())
    with library.open(tmp_path / "store") as store:
        stored = store.keys()
    for name, received in replies.items():
        answered = received.count(b"OK\n")
        done = sorted(int(key.partition("/")[2]) for key in stored if key.startswith(f"{name}/"))
        assert done[:answered] == list(range(answered)), "what was answered is there"
        assert stopped["aborted"] or len(done) == answered, "and what is there was answered, where there was time"


def test_a_server_is_started_again_at_the_same_ports_at_once(tmp_path):
    given: dict[str, int] = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        with serving(tmp_path / "store", *ports(**given)) as (server, said):
            given = {door: port for door, (_, port) in said["doors"].items()}
            left = [socket.create_connection(said["doors"]["crud"], SECONDS_MAX) for _ in range(10)]
            try:
                for client in left[:5]:  # the server closes these first, and the kernel remembers them
                    client.sendall(b"DONE\n")
                    assert client.makefile("rb").read() == b"BYE\n"
                server.send_signal(number)
                assert server.wait(SECONDS_MAX) == 0
            finally:
                for client in left:
                    client.close()


@pytest.mark.parametrize("door", DOORS)
def test_a_port_that_another_server_has_is_said(tmp_path, door):
    with serving(tmp_path / "store") as (_, said):
        taken = said["doors"][door][1]
        command = [*EAU2, "serve", "--store", str(tmp_path / "other"), *ports(**{door: taken})]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    error, hint = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert error == f"error: the {door} door cannot listen at 127.0.0.1:{taken}: Address already in use"
    assert "0 is any that is free" in hint


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("closed", ["stdout is a broken pipe", "stdout", "stderr"])
def test_a_server_serves_on_when_nobody_reads_what_it_says(tmp_path, closed, options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*EAU2, "serve", "--store", str(tmp_path / "store"), *ports(crud=port), *options]
    reading, writing = os.pipe()
    os.close(reading)
    close = {"stdout": ">&-", "stderr": "2>&-"}.get(closed, "")
    try:
        stdout = subprocess.DEVNULL if close else writing
        command = ["sh", "-c", f'exec "$@" {close}', "sh", *command]
        server = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    with server:

        def answered():
            try:
                return ask(("127.0.0.1", port), b"R none\n")
            except ConnectionRefusedError:
                return server.poll()

        assert until(answered) == b"MISSING\n"
        server.terminate()
        _, error = server.communicate(timeout=SECONDS_MAX)
        assert server.returncode == 0
    events = [json.loads(line)["event"] for line in error.splitlines()]
    assert events == ([] if closed == "stderr" else ["listening"] * len(DOORS) + ["stopped"])
