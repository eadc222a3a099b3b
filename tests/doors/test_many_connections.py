"""Thousands of connections at once at one door, while others work."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack

import pytest
from tests.doors.soak import Sample, serving
from tests.doors.talk import TALKS
from tests.until import SECONDS_MAX, until

MANY = 5000
KIB_MAX = 16  # of memory for a connection that asks nothing; docs/doors.md says what it is on one machine


@pytest.fixture
def many_files():
    """This process, and those that it starts, may have as many files open as the connections need."""
    before = soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MANY + 500
    if most != resource.RLIM_INFINITY and most < needed:
        pytest.skip(f"a process may have {most} files open here, not {needed}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def opened(stack, address, count):
    """Return `count` connections, which `stack` closes."""
    return [stack.enter_context(socket.create_connection(address, SECONDS_MAX)) for _ in range(count)]


def said(client, talk):
    """Return what `client` is told when it asks for nothing much."""
    client.sendall(talk.idle[0])
    return client.recv(1000)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["crud", pytest.param("redis", marks=pytest.mark.long)])
def test_thousands_are_admitted_and_cost_little_and_give_it_back(tmp_path, many_files, door):
    talk = TALKS[door]
    with serving(tmp_path, 300.0) as (server, doors), socket.create_connection(doors[door], SECONDS_MAX) as other:
        assert said(other, talk) == talk.idle[1]
        before = Sample.of(server.pid, 0.0)
        sizes = []
        for _ in range(3):
            with ExitStack() as stack:
                clients = opened(stack, doors[door], MANY)
                until(lambda: Sample.of(server.pid, 0.0).files >= before.files + MANY)
                sizes.append(Sample.of(server.pid, 0.0).own_bytes)
                assert said(other, talk) == talk.idle[1]
                assert all(said(client, talk) == talk.idle[1] for client in clients)
            until(lambda: Sample.of(server.pid, 0.0).files <= before.files)
            assert said(other, talk) == talk.idle[1]
        after = Sample.of(server.pid, 0.0).own_bytes
        each = (sizes[0] - before.own_bytes) / MANY / 1024
        print(
            f"{door}: {each:.1f} KiB each; own MiB {[round(n / 2**20, 1) for n in (before.own_bytes, *sizes, after)]}"
        )
        assert each < KIB_MAX
        assert sizes[2] - sizes[1] < (sizes[1] - before.own_bytes) / 10  # what is given back is used again


@pytest.mark.slow
def test_of_thousands_each_is_admitted_or_told_that_there_are_too_many(tmp_path, many_files):
    admitted = 1000
    with serving(tmp_path, 300.0, "--connections", str(admitted)) as (_, doors), ExitStack() as stack:
        replies = [client.makefile("rb") for client in opened(stack, doors["crud"], MANY)]
        for each in replies:
            stack.callback(each.close)
        told = [each.readline() for each in replies[admitted:]]
        assert told == [b"ERROR too many connections: try again later\n"] * (MANY - admitted)
        assert all(each.read() == b"" for each in replies[admitted:])
