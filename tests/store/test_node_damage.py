"""Damage in the database is an error that names the file, never a wrong answer and never an absent key."""

from __future__ import annotations

import random
import shutil

import apsw
import pytest

from eau2.errors import Corrupt, Eau2Error, FormatTooNew
from eau2.store.node import DirectoryNode
from eau2.store.nodes import Kind, Write


def filled(directory, count=400):
    expected = {f"k{index:04}": b"%d" % index * (40 if index % 10 else 400) for index in range(count)}
    node = DirectoryNode(directory)
    node.write([Write(key, Kind.BYTES, payload) for key, payload in expected.items()])
    node.close()
    return expected


def all_right_or_an_error(directory, expected):
    """Read everything in three ways; return whether any of it was an error. What is no error must be right."""
    failed, unnamed = False, []
    try:
        node = DirectoryNode(directory)
    except Eau2Error as error:
        return "entries.db" in str(error)
    try:
        for key, payload in expected.items():
            try:
                assert node.get(key).payload == payload
            except Corrupt as error:
                failed = True
                unnamed += [error] if repr(key) not in str(error) else []
        try:
            assert node.keys() == sorted(expected)
        except Corrupt:
            failed = True
        failed |= bool(node.check().faults)
    finally:
        node.close()
    assert unnamed == []
    return failed


def test_every_flip_of_a_bit_in_the_database_is_found(directory, tmp_path):
    expected = filled(directory)
    whole = (directory / "entries.db").read_bytes()
    rng = random.Random(5)
    for number in range(12):
        damaged = tmp_path / f"damaged{number}"
        shutil.copytree(directory, damaged)
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (damaged / "entries.db").write_bytes(data)
        assert all_right_or_an_error(damaged, expected)


@pytest.mark.slow
def test_every_one_of_many_flips_in_the_database_is_found(directory, tmp_path):
    expected = filled(directory)
    whole = (directory / "entries.db").read_bytes()
    rng = random.Random(6)
    damaged = tmp_path / "damaged"
    for _ in range(200):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(directory, damaged)
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (damaged / "entries.db").write_bytes(data)
        assert all_right_or_an_error(damaged, expected)


@pytest.mark.parametrize("size", [1, 3000, 8192, 20000])
def test_a_shortened_database_is_found(directory, size):
    expected = filled(directory)
    with (directory / "entries.db").open("r+b") as file:
        file.truncate(size)
    assert all_right_or_an_error(directory, expected)


@pytest.mark.parametrize("text", [b"not a database, though long enough to be one " * 200])
def test_something_else_in_place_of_the_database_is_corrupt(directory, text):
    filled(directory)
    (directory / "entries.db").write_bytes(text)
    with pytest.raises(Corrupt, match=r"entries\.db"):
        DirectoryNode(directory)


def test_a_missing_database_is_not_taken_for_a_new_node(directory):
    filled(directory)
    (directory / "entries.db").unlink()
    with pytest.raises(Corrupt, match=r"entries\.db is missing"):
        DirectoryNode(directory)


def test_a_database_of_a_later_version_is_refused(directory):
    filled(directory, 1)
    node = DirectoryNode(directory)
    node._writer.transaction(lambda: node._writer.execute("pragma user_version = 99"))
    node.close()
    with pytest.raises(FormatTooNew, match="99"):
        DirectoryNode(directory)


def test_other_users_of_apsw_in_the_process_keep_their_default(node):
    assert apsw.vfs_names()[0] == "unix"
    connection = apsw.Connection(":memory:")
    assert connection.execute("select 1").get == 1
    connection.close()


def test_a_large_value_that_is_gone_or_that_no_key_has_is_found(node):
    large = bytes(10_000)
    node.write([Write(key, Kind.BYTES, large) for key in "abcdefghij"])
    assert node.check().faults == ()
    node._writer.transaction(lambda: node._writer.execute("delete from large where id = 3"))
    node._writer.transaction(lambda: node._writer.execute("insert into large(payload) values(x'00')"))
    first, second = node.check().faults
    assert (first.key, first.what) == ("c", "its value is not there")
    assert second.what == "1 values are there that no key has"
    with pytest.raises(Corrupt, match="'c'"):
        node.get("c")
    with pytest.raises(Corrupt, match="'c'"):
        node.get_many(["a", "c"])
