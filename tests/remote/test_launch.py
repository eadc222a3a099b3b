"""A Ray cluster on this machine comes up for its owner alone, and goes without a trace, whatever was killed before."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.remote.listening import listened
from tests.until import until

from eau2.errors import Corrupt, InvalidOption, StoreBusy
from eau2.remote import launch
from eau2.remote.deployment import Deployment

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAU2_HOME", str(home))
        yield home
        launch.down()


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("EAU2_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def cluster(home):
    """Two machines that run, whatever was done to them before."""
    return launch.up(machines=2)[0]


@pytest.mark.slow
class TestCluster:
    def test_nothing_listens_where_other_machines_could_connect(self, cluster):
        addresses = listened(cluster.processes())
        assert {address for address, _ in addresses} == {"127.0.0.1"}
        assert int(cluster.address.rpartition(":")[2]) in {port for _, port in addresses}

    def test_what_is_known_of_it_is_for_its_owner_only(self, cluster):
        assert stat.S_IMODE(cluster.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in cluster.directory.iterdir()} == {0o600}

    def test_up_again_starts_nothing(self, cluster):
        before = cluster.processes()
        assert launch.up() == (cluster, [])
        assert set(before) <= set(cluster.processes())

    def test_a_raylet_that_was_killed_is_started_and_the_others_stay(self, cluster):
        other = cluster.raylet("node-0")
        os.kill(cluster.raylet("node-1"), signal.SIGKILL)
        until(lambda: cluster.raylet("node-1") is None)
        assert launch.up() == (cluster, ["node-1"])
        assert cluster.raylet("node-1")
        assert cluster.raylet("node-0") == other

    @pytest.mark.long
    def test_when_the_head_was_killed_all_is_started_anew(self, cluster):
        (head,) = cluster.processes("gcs_server")
        os.kill(head, signal.SIGKILL)
        until(lambda: not cluster.runs)
        before = cluster.processes()
        again, started = launch.up()
        assert started == ["node-0", "node-1"]
        assert set(before).isdisjoint(again.processes())

    def test_machines_are_added_and_never_taken_away(self, cluster):
        with pytest.raises(InvalidOption, match="it has 2, and gets more"):
            launch.up(machines=1)
        with pytest.raises(InvalidOption, match="has its data in"):
            launch.up(data_directory="elsewhere")
        with pytest.raises(InvalidOption, match=r"runs with replicas=2, not 1 .*`eau2 down` first"):
            launch.up(replicas=1)
        with pytest.raises(InvalidOption, match=r"runs with flush='process', not 'power' .*`eau2 down` first"):
            launch.up(flush="power")
        with pytest.raises(InvalidOption, match=r"runs with allow_exec=False, not True .*`eau2 down` first"):
            launch.up(allow_exec=True)
        assert launch.find() == cluster

    def test_the_files_of_ray_are_found_whatever_is_temporary_now(self, cluster, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
        assert launch.find() == cluster
        assert launch.find().folder == cluster.folder
        assert launch.up() == (cluster, [])

    def test_down_leaves_no_process_and_no_file_also_of_what_is_frozen(self, cluster):
        frozen = cluster.raylet("node-1")
        os.kill(frozen, signal.SIGSTOP)
        os.kill(cluster.raylet("node-0"), signal.SIGKILL)
        (cluster.data_directory / "node-0").mkdir(parents=True)
        # As a node has them; of one that is there until the end: those of the killed raylet's machine end with it.
        semaphore = Path(f"/dev/shm/sem.loky-{frozen}-left")
        semaphore.touch()
        assert launch.down() > 2
        assert not semaphore.exists()
        assert cluster.processes() == []
        assert not cluster.folder.exists()
        assert (cluster.data_directory / "node-0").exists()
        assert launch.down() == 0

    @pytest.mark.long
    def test_down_needs_nothing_but_the_name(self, cluster):
        (cluster.directory / "cluster.json").unlink()
        assert launch.down() > 2
        assert cluster.processes() == []

    def test_an_up_that_is_killed_half_way_is_undone_by_down(self, home):
        launch.down()
        up = subprocess.Popen([sys.executable, "-c", "from eau2.remote import launch; launch.up()"])
        cluster = until(launch.find)
        until(lambda: cluster.processes("raylet"))
        up.kill()
        up.wait()
        assert launch.down() > 0
        time.sleep(1.0)  # a launcher that was left would start the next raylet by now
        assert cluster.processes() == []
        assert not cluster.folder.exists()


@pytest.mark.slow
def test_who_starts_or_ends_it_is_alone(empty_home):
    code = """if True:
        import sys
        from eau2.remote import launch
        with launch._locked(launch._directory("eau2")):
            print("locked", flush=True)
            sys.stdin.read()"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(StoreBusy, match="another process starts or ends the cluster 'eau2'"):
            launch.down()
        other.communicate()
    assert launch.down() == 0


def test_a_data_directory_is_the_same_wherever_ray_was_started():
    with pytest.raises(InvalidOption, match="absolute, not 'data'"):
        Deployment("eau2", "data")
    assert Deployment("eau2", "~/data").data_directory == "~/data"


@pytest.mark.parametrize("name", ["", "a/b", "-x", "x" * 41, "ü"])
def test_a_name_is_a_word(empty_home, name):
    with pytest.raises(InvalidOption, match="no name of a cluster"):
        launch.find(name)


@pytest.mark.parametrize(("machines", "replicas"), [(0, None), (65, None), (2, 3), (2, 0)])
def test_numbers_out_of_range_start_nothing(empty_home, machines, replicas):
    with pytest.raises(InvalidOption, match="is 1"):
        launch.up(machines=machines, replicas=replicas)
    assert launch.find() is None


def test_a_state_that_is_damaged_is_said_to_be(empty_home):
    launch.down()
    (empty_home / "clusters" / "eau2" / "cluster.json").write_text("{}")
    with pytest.raises(Corrupt, match="is damaged"):
        launch.find()
