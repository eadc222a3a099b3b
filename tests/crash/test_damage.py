"""Flipped bits, shortened and missing files: the right value or an error that names the file, never another answer."""

import functools
import os
import random
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from tests.crash.damage import flip

import eau2
from eau2.errors import Corrupt, FormatTooNew, NotAStore, StoreUnusable

FRAMES = {
    "frame/numbers": pa.table({"n": np.arange(5_000), "f": np.arange(5_000) / 7}),
    "frame/text": pa.table({"s": [f"word {number % 50}" for number in range(2_000)]}),
    "frame/small": pa.table({"x": [1, None, 3]}),
}
VALUES = {f"bytes/{number:03}": random.Random(number).randbytes(number * 37) for number in range(80)}
TYPED = (Corrupt, StoreUnusable, FormatTooNew, NotAStore)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A closed store, to copy."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    with eau2.open(folder) as store:
        store.put_many({**VALUES, **FRAMES})
        for number in range(20):
            store.put(f"deleted/{number}", {"x": [number]})
        store.delete_many([f"deleted/{number}" for number in range(20)])
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    return tmp_path / "store"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def chunks_of(folder):
    return [path for path in files_of(folder) if path.suffix == ".arrow"]


def outcome(read, folder) -> str:
    """'right', or the name of the error; asserts that it is one of those for damage and names a file of the store."""
    try:
        assert read(), "a wrong value"
    except TYPED as error:
        assert str(folder) in str(error), f"names no file: {error}"
        assert "\n" not in str(error)
        return type(error).__name__
    return "right"


def read_all(store, folder) -> set[str]:
    """Read everything in every way; KeyMissing and all errors that are not typed go through."""
    found = {
        outcome(functools.partial(lambda key, value: store.get(key) == value, *item), folder) for item in VALUES.items()
    }
    for key, table in FRAMES.items():
        found.add(
            outcome(functools.partial(lambda key, table: store.frame(key).to_arrow().equals(table), key, table), folder)
        )
    found.add(outcome(lambda: store.keys() == sorted([*VALUES, *FRAMES]), folder))
    found.add(outcome(lambda: store.get_many(VALUES) == VALUES, folder))
    found.add(
        outcome(
            lambda: store.sql('select sum(n) as s from "frame/numbers"').to_arrow()["s"][0].as_py() == 12_497_500,
            folder,
        )
    )
    found.add(outcome(lambda: not any(store.exists(f"deleted/{number}") for number in range(20)), folder))
    return found


def open_and_read(folder) -> set[str]:
    try:
        store = eau2.open(folder)
    except TYPED as error:
        assert str(folder) in str(error)
        return {type(error).__name__}
    with store:
        return read_all(store, folder)


def flips(folder, kind, count, seed):
    """(path, position, bit) of `count` random flips in files of that kind."""
    chance = random.Random(seed)
    paths = [path for path in files_of(folder) if kind in path.name and path.stat().st_size]
    for _ in range(count):
        path = chance.choice(paths)
        yield path, chance.randrange(path.stat().st_size), chance.randrange(8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("entries.db", 250), (".arrow", 150), ("generation", 20), ("eau2.json", 40)]
)
def test_a_flipped_bit_is_an_error_or_harmless(copy, kind, count):
    seen = set()
    for path, position, bit in flips(copy, kind, count, seed=kind):
        flip(path, position, bit)
        try:
            seen |= open_and_read(copy)
        except BaseException as error:
            error.add_note(f"{path.name} byte {position} bit {bit}")
            raise
        flip(path, position, bit)
    assert open_and_read(copy) == {"right"}
    assert {"entries.db": "Corrupt", ".arrow": "Corrupt", "generation": "right", "eau2.json": "Corrupt"}[kind] in seen


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["entries.db", ".arrow"])
def test_a_bit_flipped_under_an_open_store_is_an_error_or_harmless(copy, kind):
    found = set()
    with eau2.open(copy) as store:
        held = {key: store.frame(key) for key in FRAMES}
        for frame in held.values():
            frame.to_arrow()
        for path, position, bit in flips(copy, kind, 60, seed=1):
            flip(path, position, bit)
            found |= read_all(store, copy)
            for key, frame in held.items():
                found.add(outcome(lambda frame=frame, key=key: frame.to_arrow().equals(FRAMES[key]), copy))
            flip(path, position, bit)
        assert read_all(store, copy) == {"right"}
    assert found <= {"right", "Corrupt"}
    assert kind != ".arrow" or "Corrupt" in found


@pytest.mark.parametrize("kind", ["entries.db", ".arrow"])
def test_check_finds_a_flip_and_names_the_file(copy, kind):
    with eau2.open(copy) as store:
        assert store.check().faults == ()
    path = next(path for path in files_of(copy) if kind in path.name)
    flip(path, path.stat().st_size // 2, 3)
    with eau2.open(copy) as store:
        faults = store.check().faults
    assert faults
    assert any(fault.file == str(path) for fault in faults)
    assert all(fault.what for fault in faults)


@pytest.mark.parametrize("size", [0, 1, 100, -8, -1])
def test_a_shortened_chunk_is_named_with_its_key(copy, size):
    for path in chunks_of(copy):
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with eau2.open(copy) as store:
        for key in FRAMES:
            with pytest.raises(Corrupt, match=re.escape(repr(key))) as caught:
                store.frame(key).to_arrow()
            assert str(copy) in str(caught.value)
        assert store.get_many(VALUES) == VALUES
        assert len(store.check().faults) >= len(FRAMES)


def test_a_missing_chunk_is_named_with_its_key_and_putting_it_again_mends_it(copy):
    for path in chunks_of(copy):
        path.unlink()
    with eau2.open(copy) as store:
        for key in FRAMES:
            for read in (
                store.get,
                store.frame,
                lambda key: store.get_many([key]),
                lambda key: store.wait(key, timeout_seconds=1),
            ):
                with pytest.raises(Corrupt, match=re.escape(repr(key))) as caught:
                    read(key)
                assert str(copy) in str(caught.value)
            with pytest.raises(Corrupt):
                store.get(key, default=None)
            assert store.exists(key)
        assert {fault.key for fault in store.check().faults} == set(FRAMES)
        for key, table in FRAMES.items():
            store.put(key, table)
            assert store.frame(key).to_arrow().equals(table)
        assert store.check().faults == ()


def test_a_damaged_frame_can_be_deleted(copy):
    for path in chunks_of(copy):
        flip(path, 100, 1)
    with eau2.open(copy) as store:
        assert store.delete_many(FRAMES) == len(FRAMES)
        assert store.check().faults == ()
        assert chunks_of(copy) == []


def test_a_missing_database_is_not_an_empty_store(copy):
    (copy / "node-0" / "entries.db").unlink()
    with pytest.raises(Corrupt, match=re.escape(str(copy / "node-0" / "entries.db"))):
        eau2.open(copy)
    assert len(chunks_of(copy)) == len(FRAMES)


@pytest.mark.parametrize("size", [0, 100, 4096, 4100])
def test_a_shortened_database_is_an_error(copy, size):
    os.truncate(copy / "node-0" / "entries.db", size)
    found = open_and_read(copy)
    assert found
    assert found <= {"Corrupt", "StoreUnusable"}


@pytest.mark.parametrize("name", ["eau2.json", "generation"])
def test_a_small_file_emptied_is_an_error(copy, name):
    path = next(path for path in files_of(copy) if path.name == name)
    path.write_bytes(b"")
    with pytest.raises(Corrupt, match=re.escape(str(path))):
        eau2.open(copy)
