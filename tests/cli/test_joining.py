"""`eau2 join` and `eau2 leave`, where they are refused. What they do otherwise: tests/on_ray/test_joining.py."""

import subprocess

import pytest
from tests.served.serving import serving

pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EAU2_HOME", str(tmp_path / "home"))


def test_down_says_where_it_has_looked_and_which_other_home_has_one_that_runs(eau2, tmp_path):
    other = tmp_path / "another home"
    with subprocess.Popen(["sleep", "600"], env={"EAU2_CLUSTER": str(other / "clusters" / "eau2")}) as process:
        try:
            said = eau2("down").text.splitlines()
            named = eau2("down", "--name", "big").text
        finally:
            process.kill()
    assert said[0] == f"the cluster 'eau2' of {tmp_path}/home was not running"
    assert f"one of another home is: EAU2_HOME='{other}' eau2 down --name eau2" in said
    assert named == f"the cluster 'big' of {tmp_path}/home was not running\n"


def test_a_served_directory_cannot_be_joined(eau2, tmp_path):
    with serving(tmp_path / "store") as address:
        refused = eau2("join", address)
    assert refused.code == 2
    assert "no other machine can join the directory" in refused.error


def test_what_is_no_node_is_said(eau2):
    refused = eau2("join", "10.0.0.1")
    assert refused.code == 2
    assert "eau2://HOST:PORT" in refused.error


def test_leave_is_for_what_was_joined(eau2):
    refused = eau2("leave")
    assert refused.code == 2
    assert "has not joined" in refused.error
