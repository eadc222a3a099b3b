"""Commands on every node are for clusters, and say so."""

import pytest

from eau2.cli.exits import USAGE

COMMANDS = [("exec", "--", "date"), ("exec", "--list"), ("exec", "--show", "5c0e91d2"), ("push", "f", "--to", "/x")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_is_no_cluster_is_refused_with_what_to_do(eau2, tmp_path, command):
    (tmp_path / "f").write_bytes(b"data")
    ran = eau2(*command[:1], "--store", "here", *command[1:])
    assert (ran.code, ran.out) == (USAGE, b"")
    assert "commands run on the nodes of a cluster" in ran.error
    assert "eau2 up --allow-exec" in ran.error
    assert not (tmp_path / "here").exists()


def test_a_server_that_is_not_there_is_said(eau2):
    ran = eau2("exec", "--store", "eau2://localhost:1", "--", "date")
    assert (ran.code, "the server at localhost:1 does not answer" in ran.error) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exec"], "there is no command to run"),
        (["exec", "--list", "--", "date"], "--list and --show run nothing"),
        (["exec", "--list", "--show", "5c0e91d2"], "--list and --show run nothing"),
        (["push", "f", "--to", "relative"], "absolute path"),
        (["push", "--to", "/x"], "Missing argument"),
    ],
)
def test_what_is_not_right_is_said_before_any_node_is_asked(eau2, tmp_path, arguments, said):
    (tmp_path / "f").write_bytes(b"data")
    ran = eau2(*arguments)
    assert (ran.code, ran.out) == (USAGE, b"")
    assert said in ran.error


def test_a_script_that_is_not_there_is_said(eau2):
    ran = eau2("exec", "--script", "absent.sh")
    assert (ran.code, "absent.sh cannot be read: No such file" in ran.error) == (3, True)
