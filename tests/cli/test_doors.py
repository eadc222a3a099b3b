"""serve and crud: a server in a process of its own, and the client of its lines."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.until import SECONDS_MAX

import eau2 as library
from eau2.cli import arena
from eau2.datagram import Client

CRUD = Path(__file__).resolve().parents[3] / "shared" / "data" / "crud"
EAU2 = [sys.executable, "-c", "from eau2.cli import main; main()"]


@contextlib.contextmanager
def serving(directory, *options, **environment):
    """A server; yield its process and what it said of its doors."""
    ports = [word for door in ("flight", "crud", "redis", "http", "udp") for word in (f"--{door}-port", "0")]
    command = [*EAU2, "serve", "--store", str(directory), *ports, "--json", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as server:
        try:
            yield server, json.loads(server.stdout.readline())
        finally:
            server.kill()


def crud(doors, lines, *options, **environment):
    host, port = doors["crud"]
    command = [*EAU2, "crud", f"{host}:{port}", *options]
    return subprocess.run(
        command, input=lines, capture_output=True, timeout=SECONDS_MAX, check=False, env={**os.environ, **environment}
    )


def arenas_of(process):
    said = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    return [each for each in said if each.startswith(b"MALLOC_ARENA_MAX=")]


@pytest.mark.slow
@pytest.mark.skipif(not arena._has_glibc(), reason="as glibc does it")
def test_a_server_has_one_arena_for_its_memory_or_as_many_as_it_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    with serving(tmp_path / "store") as (server, said):
        assert said["pid"] == server.pid
        assert arenas_of(server) == [b"MALLOC_ARENA_MAX=1"]
        client = crud(said["doors"], b"C k v")
        assert client.stdout == b"OK\n"
    with serving(tmp_path / "store", MALLOC_ARENA_MAX="3") as (server, _):
        assert arenas_of(server) == [b"MALLOC_ARENA_MAX=3"]


def test_only_a_server_begins_anew_and_goes_on_where_it_cannot(monkeypatch):
    begun = []

    def fail(*asked):
        begun.append(asked)
        raise PermissionError

    monkeypatch.setattr(os, "execve", fail)
    monkeypatch.setattr(arena, "_has_glibc", lambda: True)
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-X", "dev", "eau2", "serve"])
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    arena.begin_anew_with_one_arena(["get", "k"])
    assert begun == []
    arena.begin_anew_with_one_arena(["--json", "serve"])
    ((program, words, environment),) = begun
    assert (program, words) == (sys.executable, [sys.executable, "-X", "dev", "eau2", "serve"])
    assert environment == {**os.environ, "MALLOC_ARENA_MAX": "1"}
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    arena.begin_anew_with_one_arena(["serve"])
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(sys, "executable", None)
    arena.begin_anew_with_one_arena(["serve"])
    assert len(begun) == 1


@pytest.mark.parametrize("failure", [ValueError, AttributeError, OSError])
def test_another_c_library_is_left_alone(monkeypatch, failure):
    def unknown(name):
        raise failure

    monkeypatch.setattr(os, "confstr", unknown)
    assert not arena._has_glibc()


@pytest.mark.slow
def test_a_store_is_served_until_it_is_told_to_stop(tmp_path):
    for number in (signal.SIGTERM, signal.SIGINT):
        with serving(tmp_path / "store") as (server, said):
            assert said["pid"] == server.pid
            assert crud(said["doors"], b"C k #3\na\nb\nR k").stdout in (
                b"OK\nVALUE 3\na\nb\n",
                b"EXISTS\nVALUE 3\na\nb\n",
            )
            with Client(*said["doors"]["udp"]) as client:
                assert client.get("k") == b"a\nb"
                assert client.process_id() == server.pid
            server.send_signal(number)
            assert server.wait(SECONDS_MAX) == 0
            events = [json.loads(line) for line in server.stderr]
            assert [each["event"] for each in events] == ["listening"] * 5 + ["stopped"]
    with library.open(tmp_path / "store") as store:
        assert store.get("k") == b"a\nb"


@pytest.mark.slow
def test_the_client_of_lines_prints_the_replies(tmp_path):
    with serving(tmp_path / "store") as (_, said):
        doors = said["doors"]
        ran = crud(doors, b"C a 1\nC a 2\nR a\nR b \nwhat\nD a\nDONE\nD a\n")
        assert (ran.returncode, ran.stdout.splitlines()) == (
            0,
            [
                b"OK",
                b"EXISTS",
                b"VALUE 1",
                b"1",
                b"MISSING",
                b"ERROR a request begins with C, R, U, D or DONE",
                b"OK",
                b"BYE",
            ],
        )
        ran = crud(doors, b"C a #2\n\xff\xfe\nR a\nx", "--json")
        replies = json.loads(ran.stdout)["replies"]
        assert [each["reply"] for each in replies] == ["OK", "VALUE", "ERROR"]
        assert replies[1]["base64"] == "//4="
        assert crud(doors, b"").stdout == b""
        many = b"".join(b"C k%d %d\nR k%d\n" % (each, each, each) for each in range(5000))
        assert crud(doors, many).stdout == b"".join(b"OK\nVALUE %d\n%d\n" % (len(b"%d" % n), n) for n in range(5000))


@pytest.mark.slow
def test_a_token_comes_from_a_file_and_from_the_environment(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("read a token that reads\n")
    tokens.chmod(0o600)
    with serving(tmp_path / "store", "--token-file", str(tokens)) as (_, said):
        assert crud(said["doors"], b"R a\n").stdout == b"ERROR say AUTH and a token first\n"
        ran = crud(said["doors"], b"R a\nC a 1\n", EAU2_TOKEN="a token that reads")
        assert ran.stdout == b"MISSING\nERROR the token may only read\n"
        ran = crud(said["doors"], b"R a\n", EAU2_TOKEN="somebody else's token")
        assert ran.returncode == 3
        assert b"refuses the token" in ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(not CRUD.exists(), reason="needs ../shared/data/crud")
def test_the_inputs_of_the_original(tmp_path):
    """Against a dict: what each line of the original's inputs should have been answered."""
    with serving(tmp_path / "store") as (_, said):
        known = {}
        for path in sorted(CRUD.iterdir()):
            lines = path.read_bytes()
            expected = b"".join(answered(known, *line.split(b" ", 2)) for line in lines.splitlines())
            assert crud(said["doors"], lines).stdout == expected, path


def answered(known, verb, key, value=b""):
    if verb == b"R":
        return b"VALUE %d\n%b\n" % (len(known[key]), known[key]) if key in known else b"MISSING\n"
    if verb == b"D":
        return b"MISSING\n" if known.pop(key, None) is None else b"OK\n"
    if (key in known) == (verb == b"C"):
        return b"EXISTS\n" if verb == b"C" else b"MISSING\n"
    known[key] = value
    return b"OK\n"


@pytest.mark.slow
def test_without_its_parts_http_is_left_out_unless_it_is_asked_for(tmp_path):
    code = "import eau2.doors.server as s; s._HTTP_PARTS = ('no_such_part',); from eau2.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--store", str(tmp_path / "store"), "--json"]
    command += [word for door in ("flight", "crud", "redis", "udp") for word in (f"--{door}-port", "0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert set(json.loads(server.stdout.readline())["doors"]) == {"flight", "crud", "redis", "udp"}
            said = json.loads(server.stderr.readline())
            assert (said["event"], said["door"]) == ("left out", "http")
            assert "eau2[serve]" in said["hint"]
        finally:
            server.kill()
    ran = subprocess.run([*command, "--http-port", "0"], capture_output=True, text=True, timeout=SECONDS_MAX)
    assert ran.returncode == 3
    assert json.loads(ran.stderr.splitlines()[-1])["error"] == "PartMissing"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--crud-port", "many"], "a port from 0 to 65535, or off"),
        (["serve", "--crud-port", "70000"], "a port from 0 to 65535, or off"),
        (["serve", "--host", "0.0.0.0"], "could read and write everything"),
        (["serve", "--host", "no such host"], "no address is known"),
        (["serve", "--udp-trust", "10.0.0.0"], ""),
        (["serve", "--tls-cert", "none.pem"], "go together"),
        (["serve", "--tls-cert", "none.pem", "--tls-key", "none.pem"], "no certificate and key"),
        (["serve", "--token-file", "none"], "cannot be read"),
        (["crud", "nowhere"], "HOST:PORT"),
    ],
)
def test_wrong_options_are_said_at_once(eau2, arguments, says):
    if not says:
        arguments, says = [*arguments, "--udp-trust", "here"], "not a network"
    ran = eau2(*arguments)
    assert ran.code == 2
    assert says in ran.error.replace("\n", " ")


def test_a_port_where_nobody_listens_is_said(eau2, unused_port):
    ran = eau2("crud", f"127.0.0.1:{unused_port}")
    assert ran.code == 3
    assert "does not answer" in ran.error


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
