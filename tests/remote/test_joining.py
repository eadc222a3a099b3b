"""What is asked of a machine before anything is started on it, and what is said when it cannot join."""

import socket
from dataclasses import replace

import pytest
from tests.served.serving import serving

import eau2 as library
from eau2.doors.tokens import Role, Tokens
from eau2.errors import ClusterUnavailable, InvalidOption, PartMissing, ReadOnly, VersionsDiffer
from eau2.remote import launch
from eau2.remote.address import own_token, reach
from eau2.remote.joining import checked_host, checked_machine, require_alike
from eau2.remote.raylets import LocalCluster
from eau2.store.membership import WayIn

OURS = {"Python": "3.11.7", "Ray": "2.60.0", "eau2": "0.1.0"}
WAY = WayIn("10.0.0.1:6379", "eau2", "host-1", "3.11.7", "2.60.0", "0.1.0")


def test_the_same_versions_are_alike():
    require_alike(WAY, OURS)


@pytest.mark.parametrize(
    ("theirs", "said", "hint"),
    [
        ({"ray": "2.61.0"}, "Ray is 2.60.0 here, and 2.61.0 there", 'pip install "eau2[cluster]==0.1.0" "ray==2.61.0"'),
        ({"eau2": "0.2.0"}, "eau2 is 0.1.0 here, and 0.2.0 there", 'pip install "eau2[cluster]==0.2.0" "ray==2.60.0"'),
        ({"python": "3.12.1"}, "Python is 3.11.7 here, and 3.12.1 there", "make an environment of Python 3.12.1"),
    ],
)
def test_other_versions_are_refused_and_it_is_said_what_to_install(theirs, said, hint):
    with pytest.raises(VersionsDiffer) as refused:
        require_alike(replace(WAY, **theirs), OURS)
    assert (refused.value.message, refused.value.hint) == (
        f"the cluster at 10.0.0.1:6379 has other versions: {said}",
        hint,
    )


def test_a_machine_without_ray_is_told_which_one_to_install():
    with pytest.raises(PartMissing) as refused:
        require_alike(WAY, OURS | {"Ray": ""})
    assert '"ray==2.60.0"' in refused.value.hint


def test_patches_of_python_are_alike_where_ray_is_told_so(monkeypatch):
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    require_alike(replace(WAY, python="3.11.9"), OURS)
    with pytest.raises(VersionsDiffer):
        require_alike(replace(WAY, python="3.12.9"), OURS)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "a" * 64, "a."])
def test_a_machine_has_a_name_that_ray_takes_as_a_label(name):
    with pytest.raises(InvalidOption, match="no name of a machine"):
        checked_machine(name)


@pytest.mark.parametrize(("host", "head"), [("127.0.0.1", "127.0.0.1:6379"), ("10.0.0.2", "localhost:6379")])
def test_nobody_joins_what_listens_to_its_own_machine(host, head):
    with pytest.raises(InvalidOption, match="listens to its own machine alone"):
        checked_host(host, head)
    assert checked_host("10.0.0.2", "10.0.0.1:6379") == "10.0.0.2"


def test_a_head_that_is_gone_is_said_to_be_the_head():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        head = f"127.0.0.1:{nobody.getsockname()[1]}"
    with pytest.raises(ClusterUnavailable, match=f"the head, {head}, cannot be reached"):
        reach(head, who="the head, {},")


def test_nothing_is_started_without_a_token_of_ray(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ClusterUnavailable, match="no token for Ray"):
        own_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ClusterUnavailable, match="there is no token at"):
        own_token()
    (tmp_path / "token").write_text("secret")
    assert own_token() == str(tmp_path / "token")


class TestOnAMachineThatIsInACluster:
    @pytest.fixture
    def home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("EAU2_HOME", str(tmp_path))
        return tmp_path / "clusters" / "eau2"

    def known(self, directory, **fields):
        directory.mkdir(parents=True)
        cluster = LocalCluster(directory, ("host-2",), directory, 2, **fields)
        cluster.write()
        return cluster

    def test_a_cluster_of_its_own_is_in_nobodys_way(self, home):
        self.known(home)
        with pytest.raises(InvalidOption, match="of its own"):
            launch.join(WAY, "host-2", host="10.0.0.2", token="t", data_directory="", replicas=2, brought="")

    def test_what_it_has_joined_is_not_started_as_its_own(self, home):
        self.known(home, address="10.0.0.1:6379", host="10.0.0.2", token="/etc/token")
        with pytest.raises(InvalidOption, match="this machine is host-2"):
            launch.up()
        assert launch.down() == 0
        assert launch.find() is None

    def test_it_connects_with_the_token_that_it_had_and_listens_to_others(self, home):
        joined = self.known(home, address="10.0.0.1:6379", host="10.0.0.2", token="/etc/token")
        assert LocalCluster.read(home) == joined
        assert joined.environment()["RAY_AUTH_TOKEN_PATH"] == "/etc/token"
        assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in joined.environment()


def test_only_a_token_for_everything_is_told_the_way_in(tmp_path):
    tokens = Tokens([("a-token-to-write-with", Role.WRITE), ("a-token-to-do-all-with", Role.ADMIN)])
    with serving(tmp_path / "store", tokens=tokens) as address:
        with library.open(address, token="a-token-to-write-with") as store, pytest.raises(ReadOnly):
            store.way_in()
        with library.open(address, token="a-token-to-do-all-with") as store, pytest.raises(InvalidOption):
            store.way_in()
