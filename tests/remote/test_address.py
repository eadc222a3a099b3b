"""What `ray:...` names, and what is said, in bounded time, when it cannot be used."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.until import SECONDS_MAX, until

from eau2.errors import ClusterUnavailable, InvalidOption, VersionsDiffer
from eau2.remote import launch
from eau2.remote.address import Address, address_of, look

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EAU2_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "head", "name"),
    [
        ("ray:10.0.0.1:6379", "10.0.0.1:6379", "eau2"),
        ("ray:head:6379/trips", "head:6379", "trips"),
        ("ray:[::1]:6379/trips", "[::1]:6379", "trips"),
    ],
)
def test_an_address_names_a_head_and_a_cluster(home, text, head, name):
    assert address_of(text) == Address(head, name)


@pytest.mark.parametrize("text", ["ray://head:10001", "ray:a/b", "ray:head:port", "ray:head:1/", "ray: "])
def test_what_is_no_address_is_refused(home, text):
    with pytest.raises(InvalidOption, match=r"ray:HOST:PORT/NAME"):
        address_of(text)


def test_without_an_address_it_is_the_ray_cluster_of_this_machine(home, monkeypatch):
    with pytest.raises(ClusterUnavailable, match="`eau2 up` starts one here"):
        address_of("ray:")
    (home / "ray").mkdir()
    (home / "ray" / "ray_current_cluster").write_text("10.0.0.2:6379\n")
    assert address_of("ray:trips") == Address("10.0.0.2:6379", "trips")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.3:6379")
    assert address_of("ray:") == Address("10.0.0.3:6379", "eau2")


def test_without_ray_it_is_said_what_to_install(tmp_path):
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("ray-", "ray.", "ray")):
            (tmp_path / path.name).symlink_to(path)
    code = "from eau2.remote.address import Address, look; look(Address('127.0.0.1:1', 'eau2'))"
    paths = {"PYTHONPATH": os.pathsep.join([str(SOURCES), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=paths, capture_output=True, text=True, check=False)
    assert 'PartMissing: a cluster needs Ray, which is not installed (pip install "eau2[cluster]")' in done.stderr


def test_an_absent_head_is_said_to_be():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pytest.importorskip("ray")
    with pytest.raises(ClusterUnavailable, match="cannot be reached: Connection refused"):
        look(Address(f"127.0.0.1:{port}", "eau2"))


def test_what_cannot_be_a_machine_is_said_to_be_out_of_reach():
    pytest.importorskip("ray")
    with pytest.raises(ClusterUnavailable, match="cannot be reached"):
        look(Address(f"{'x' * 64}.example:6379", "eau2"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAU2_HOME", str(tmp_path_factory.mktemp("home")))
        yield launch.up(machines=1)[0]
        launch.down()


def looked(address):
    """What `look` comes to, but for a head that is taken for one that is frozen, as the machine is busy."""

    def answer():
        try:
            return [look(address)]
        except ClusterUnavailable as error:
            if "no head of Ray answers" not in str(error):
                raise
            return []

    return until(answer)[0]


@pytest.mark.slow
class TestHead:
    @pytest.fixture
    def address(self, cluster):
        return address_of("ray:")

    def test_it_says_which_clusters_it_has(self, address):
        assert looked(address) == {}

    def test_its_own_address_means_the_same(self, cluster, address):
        assert address_of(f"ray:{cluster.address}") == address

    def test_a_wrong_token_is_refused(self, address, tmp_path, monkeypatch):
        for name in address.environment:  # of a cluster to which this process was connected before
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "token").write_text("0" * 64)
        wrong = address.environment | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
        with pytest.raises(ClusterUnavailable, match=r"refuses our token .*RAY_AUTH_TOKEN_PATH"):
            looked(replace(address, environment=wrong))
        with pytest.raises(ClusterUnavailable, match="refuses our token"):
            looked(replace(address, environment={}))
        for path, why in (("absent", "No such file"), ("", "Is a directory"), ("empty", "it is empty")):
            (tmp_path / "empty").touch()
            wrong["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / path)
            with pytest.raises(ClusterUnavailable, match=rf"there is no token at .*{path}: {why}.*RAY_AUTH_TOKEN_PATH"):
                look(replace(address, environment=wrong))

    def test_that_a_token_is_wanted_and_none_is_there_is_said(self, address, tmp_path, monkeypatch):
        for name in address.environment:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))  # where Ray looks for one
        with pytest.raises(ClusterUnavailable, match=r"wants a token, and there is none .*RAY_AUTH_TOKEN_PATH"):
            looked(replace(address, environment={"RAY_AUTH_MODE": "token"}))

    def test_another_python_ray_or_eau2_is_named_before_any_work(self, address):
        said = {"ray_version": version("ray"), "python_version": platform.python_version()}
        told(address, "CLUSTER_METADATA", "cluster", said | {"python_version": "3.9.1"})
        with pytest.raises(VersionsDiffer, match=rf"Python is {platform.python_version()} here, and 3\.9\.1 at"):
            looked(address)
        told(address, "CLUSTER_METADATA", "cluster", said | {"ray_version": "2.1.0"})
        with pytest.raises(VersionsDiffer, match=r"Ray is .* here, and 2\.1\.0 at"):
            looked(address)
        told(address, "CLUSTER_METADATA", "cluster", said)
        told(address, "eau2", "eau2", {"eau2": "0.0.1"})
        with pytest.raises(VersionsDiffer, match=r"eau2 is .* here, and 0\.0\.1 at"):
            looked(address)
        told(address, "eau2", "eau2", None)

    def test_a_head_that_is_frozen_does_not_hang_us(self, cluster, address):
        (head,) = cluster.processes("gcs_server")
        begun = time.monotonic()
        os.kill(head, signal.SIGSTOP)
        try:
            with pytest.raises(ClusterUnavailable, match="accepts connections, but no head of Ray answers"):
                look(address)
        finally:
            os.kill(head, signal.SIGCONT)
        assert time.monotonic() - begun < SECONDS_MAX
        assert looked(address) == {}

    def test_what_is_no_head_of_ray_does_not_hang_us(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            begun = time.monotonic()
            with pytest.raises(ClusterUnavailable, match="accepts connections, but no head of Ray answers"):
                look(Address(f"127.0.0.1:{server.getsockname()[1]}", "eau2"))
            assert time.monotonic() - begun < SECONDS_MAX


def told(address, key, space, said):
    """Have the head at `address` say something else of itself."""
    write = """if True:
        import sys
        from ray._raylet import GcsClient
        key, space, said, address = (text.encode() for text in sys.argv[1:])
        head = GcsClient(address=address.decode())
        if said == b"null":
            head.internal_kv_del(key, False, space, timeout=5)
        else:
            head.internal_kv_put(key, said, True, space, timeout=5)"""
    command = [sys.executable, "-c", write, key, space, json.dumps(said), address.head]
    subprocess.run(command, env=os.environ | address.environment, check=True, timeout=60)
