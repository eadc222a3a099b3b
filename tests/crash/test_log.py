"""The log that a killed process leaves: every acknowledged commit is read from it, or opening is an error each time."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
from tests.crash.damage import flip
from tests.until import SECONDS_MAX

import eau2
from eau2.errors import Corrupt
from eau2.store import database

COMMITS = 60


def write_and_hang(folder, ready):
    """Each commit adds a key and a frame and replaces `latest`; the log is not taken into the file."""
    store = eau2.open(folder)
    for number in range(COMMITS):
        store.put_many({f"k{number:03}": b"%d" % number * 50, "latest": b"%d" % number, "frame": {"n": [number] * 100}})
    ready.put(os.getpid())
    store.wait("never", timeout_seconds=20 * SECONDS_MAX)


def how_many(store) -> int:
    """How many commits the store shows; asserts that it shows them as they were made, and no part of another."""
    keys = store.keys("k")
    assert keys == [f"k{number:03}" for number in range(len(keys))]
    assert all(store.get(key) == b"%d" % number * 50 for number, key in enumerate(keys))
    if not keys:
        assert not store.exists("latest")
        return 0
    assert store.get("latest") == b"%d" % (len(keys) - 1)
    with contextlib.suppress(Corrupt):  # the chunk of the frame before was removed when it was replaced
        assert store.frame("frame").to_arrow()["n"].to_pylist() == [len(keys) - 1] * 100
    return len(keys)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, processes):
    """A store whose only process was killed, to copy."""
    folder = tmp_path_factory.mktemp("killed") / "store"
    ready = processes.Queue()
    process = processes.Process(target=write_and_hang, args=(str(folder), ready))
    process.start()
    ready.get(timeout=SECONDS_MAX)
    process.kill()
    process.join()
    return folder


@pytest.fixture
def copy(killed, tmp_path):
    shutil.copytree(killed, tmp_path / "store")
    return tmp_path / "store"


def log_of(folder):
    return folder / "node-0" / "entries.db-wal"


def index_of(folder):
    return folder / "node-0" / "entries.db-shm"


def refused(folder) -> str:
    """What opening says, twice the same: it changes nothing that tells of the loss."""
    before = log_of(folder).read_bytes(), index_of(folder).read_bytes()
    said = set()
    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            eau2.open(folder)
        said.add(str(caught.value))
    assert (log_of(folder).read_bytes(), index_of(folder).read_bytes()) == before
    (message,) = said
    assert str(log_of(folder)) in message
    return message


def test_the_whole_log_of_a_killed_process_is_read(copy):
    with eau2.open(copy) as store:
        assert how_many(store) == COMMITS
        assert store.check().faults == ()


@pytest.mark.parametrize("place", [0, 5, 10, 18, 25, 33, 40, 48, 60, 10_000, 60_000])  # header, frame header, pages
def test_a_flip_in_the_log_of_a_killed_process_is_an_error_whenever_it_is_opened(copy, place):
    flip(log_of(copy), place)
    refused(copy)


@pytest.mark.slow
def test_every_one_of_many_flips_is_an_error(copy):
    whole = log_of(copy).read_bytes()
    chance = random.Random(7)
    for _ in range(300):
        flip(log_of(copy), chance.randrange(len(whole)), chance.randrange(8))
        refused(copy)
        log_of(copy).write_bytes(whole)
    with eau2.open(copy) as store:
        assert how_many(store) == COMMITS


def test_a_log_cut_short_or_removed_is_an_error(copy):
    os.truncate(log_of(copy), log_of(copy).stat().st_size // 2)
    refused(copy)
    os.truncate(log_of(copy), 10)
    assert " 0 can be read" in refused(copy)
    log_of(copy).unlink()
    with pytest.raises(Corrupt):
        eau2.open(copy)


def test_whoever_deletes_the_index_goes_on_with_the_commits_before_the_damage(copy):
    flip(log_of(copy), log_of(copy).stat().st_size // 2)
    refused(copy)
    index_of(copy).unlink()
    for _ in range(2):
        with eau2.open(copy) as store:
            assert 0 < how_many(store) < COMMITS
            store.put("after", {"x": [1]})


def test_nobody_is_told_to_go_on_when_pages_behind_the_damage_are_in_the_database_already(copy):
    flip(log_of(copy), 10_000)
    assert "delete" in refused(copy)
    with index_of(copy).open("r+b") as index:  # where it counts the pages that were copied
        os.pwrite(index.fileno(), (20).to_bytes(4, sys.byteorder), 128)
    assert "delete" not in refused(copy)


def test_what_a_killed_writer_had_not_committed_is_no_damage(copy):
    with log_of(copy).open("ab") as log:
        log.write(b"the beginning of a page " * 200)
    with eau2.open(copy) as store:
        assert how_many(store) == COMMITS


def test_a_loss_of_power_may_take_the_last_commits_along(copy):
    os.truncate(log_of(copy), log_of(copy).stat().st_size * 3 // 4)
    os.utime(index_of(copy), (0, 0))  # before this boot of the machine
    with eau2.open(copy) as store:
        assert 0 < how_many(store) < COMMITS


@pytest.mark.parametrize("header", [0, 48])
def test_one_damaged_header_of_the_index_hides_no_damage_of_the_log(copy, header):
    flip(index_of(copy), header + 17)
    flip(log_of(copy), 50_000)
    refused(copy)


TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
"""


def test_a_store_opened_again_in_its_process_keeps_its_locks(tmp_path):
    """Without the one by which others see that it lives, they would read its log as that of a killed process."""
    with eau2.open(tmp_path) as store:
        store.put("a", b"1")
        with eau2.open(tmp_path) as again:
            assert again.get("a") == b"1"
            assert again.check().faults == ()
        tried = subprocess.run(
            [sys.executable, "-c", TRY_LOCK, str(index_of(tmp_path))],
            capture_output=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        assert b"BlockingIOError" in tried.stderr


# -- several processes -------------------------------------------------------------------------------------------------


def open_and_count(folder, go, answers):
    go.wait(SECONDS_MAX)
    try:
        with eau2.open(folder) as store:
            answers.put(how_many(store))
    except Corrupt:
        answers.put("Corrupt")


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_of_several_processes_that_open_at_once_all_find_the_same(killed, tmp_path, processes, damaged):
    for number in range(8):
        folder = tmp_path / f"{number}"
        shutil.copytree(killed, folder)
        if damaged:
            flip(log_of(folder), 32 + number * 9_000)
        go, answers = processes.Event(), processes.Queue()
        openers = [processes.Process(target=open_and_count, args=(str(folder), go, answers)) for _ in range(4)]
        for process in openers:
            process.start()
        go.set()
        assert [answers.get(timeout=SECONDS_MAX) for _ in openers] == ["Corrupt" if damaged else COMMITS] * 4
        for process in openers:
            process.join()


def count_up(folder, name, log_pages, told):
    """Put 1, 2, 3... under `name`, telling each, through a log that begins anew every few commits; until killed."""
    database._WAL_PAGES = log_pages
    store = eau2.open(folder)
    number = int(store.get(name, default=b"0"))
    while True:
        told.send(number)  # also what was there at first: it may be what its killed writer could not tell any more
        number += 1
        store.put(f"{name}/{number % 50}", bytes(3_000))
        store.put(name, b"%d" % number)


@pytest.mark.slow
@pytest.mark.parametrize("log_pages", [20, 16_000])
def test_kills_are_never_taken_for_damage(tmp_path, processes, log_pages):
    """Two or three writers; one is killed at a time, sometimes all, and others open meanwhile and after."""
    chance = random.Random(log_pages)
    folder = str(tmp_path / "store")
    living, acknowledged = {}, {"a": 0, "b": 0, "c": 0}

    def kill(name):
        process, told = living.pop(name)
        process.kill()
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                acknowledged[name] = told.recv()
        assert process.exitcode == -9, "the writer ended by itself: see its traceback above"

    try:
        rounds = 0
        while rounds < 40 or min(acknowledged.values()) <= 100:  # a slow machine takes more rounds
            rounds += 1
            for name in acknowledged.keys() - living.keys():
                reader, writer = processes.Pipe(duplex=False)
                process = processes.Process(target=count_up, args=(folder, name, log_pages, writer))
                process.start()
                writer.close()
                living[name] = process, reader
            if chance.random() < 0.7:  # else some are killed while they open the store
                assert all(told.poll(SECONDS_MAX) for _, told in living.values())
            time.sleep(chance.uniform(0.0, 0.04))
            dying = chance.sample(sorted(living), chance.choice([1, 2, 3, 3]))
            for name in dying:
                kill(name)
            if chance.random() < 0.5:
                with eau2.open(folder) as store:
                    for name in dying:
                        assert int(store.get(name, default=b"0")) - acknowledged[name] in (0, 1)
    finally:
        for name in list(living):
            kill(name)
    with eau2.open(folder) as store:
        assert store.check().faults == ()
