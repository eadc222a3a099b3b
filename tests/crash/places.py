"""Places that resist: run as `python -m tests.crash.places CASE DIRECTORY`, in a mount namespace of its own.

Prints "right" when all was as it should be.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

import eau2
from eau2.errors import DiskFull, ReadOnly

KEPT = pa.table({"n": np.arange(100_000)})


def mount(*words) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def big(megabytes: int) -> pa.Table:
    return pa.table({"n": np.random.default_rng(megabytes).random(megabytes << 17)})


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def refused(error, work) -> str:
    try:
        work()
    except error as caught:
        return str(caught)
    raise SystemExit(f"no {error.__name__} from {work}")


def unchanged(store) -> None:
    assert store.keys() == ["bytes", "frame"], store.keys()
    assert store.get("bytes") == b"kept"
    assert store.frame("frame").to_arrow().equals(KEPT)
    assert store.sql("select count(*) as n from frame").to_arrow()["n"].to_pylist() == [100_000]
    assert [path for path in Path(os.getcwd()).rglob("staging/*/*") if path.name != "lock"] == []


def full(place: Path) -> None:
    """Every write fails with DiskFull and changes nothing, reads go on, and with space all is well again."""
    source = place.parent / "source"
    source.write_bytes(bytes(9 << 20))
    rows = place.parent / "rows.csv"
    rows.write_text("n\n" + "1234567\n" * 1_000_000)
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", place)
    os.chdir(place)
    store = eau2.open(place / "store")
    store.put("frame", KEPT)
    store.put("bytes", b"kept")
    fill(place / "filler")
    writes = [
        lambda: store.put("frame", big(8)),
        lambda: store.put("new", big(8)),
        lambda: store.put("new", iter(big(30).to_batches(max_chunksize=1 << 17))),
        lambda: store.put("bytes", bytes(8 << 20)),
        lambda: store.put_many({"bytes": b"x", "new": big(8)}),
        lambda: store.put_many({"bytes": b"x", "new": bytes(8 << 20)}),
        lambda: store.put_file("new", source),
        lambda: store.load("new", rows, progress=False),
        lambda: store.create("new", bytes(8 << 20)),
    ]
    for _ in range(2):
        for write in writes:
            assert str(place) in refused(DiskFull, write)
            unchanged(store)
    with eau2.open(place / "store") as second:  # it can still be opened
        unchanged(second)
    assert store.check().faults == ()
    (place / "filler").unlink()
    store.put_many({"bytes": b"new", "new": big(2)})
    assert store.frame("new").to_arrow().equals(big(2))
    store.put_file("file", source)
    fill(place / "filler")
    refused(DiskFull, lambda: store.get_file("file", place / "copy"))
    assert sorted(os.listdir(place)) == ["filler", "store"]
    (place / "filler").unlink()
    store.close()
    with eau2.open(place / "store") as again:
        assert again.check().faults == ()
        assert again.get("bytes") == b"new"


def full_node(place: Path) -> None:
    """Where the disk of one node of three is full, a write it takes part in fails on all of them; others go on."""
    (place / "store" / "node-1").mkdir(parents=True)
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", place / "store" / "node-1")
    (place / "store" / "eau2.json").write_text('{"format": 1, "id": "of-a-test"}')
    keys = [f"k{number}" for number in range(30)]
    with eau2.open(place / "store", nodes=3) as store:
        store.put_many(dict.fromkeys(keys, b"kept"))
        store.put("frame", KEPT)
        filler = place / "store" / "node-1" / "filler"
        fill(filler)
        full, wrote = 0, 0
        for number, key in enumerate(keys):
            for value in (bytes(3 << 20), big(3)):
                try:
                    store.put(key, value) if number % 2 else store.put_many({key: value, "k0": b"kept"})
                    wrote += 1
                    store.put(key, b"kept")
                except DiskFull as error:
                    full += 1
                    assert "node-1" in str(error), error
                assert store.get(key) == b"kept", key
            assert set(store.get_many(keys).values()) == {b"kept"}
        assert full > 5, full
        assert wrote > 5, wrote
        assert store.frame("frame").to_arrow().equals(KEPT)
        assert store.check().faults == (), store.check().faults
        filler.unlink()
        store.put_many(dict.fromkeys(keys, b"new"))
        assert store.check().faults == ()
    with eau2.open(place / "store") as store:
        assert set(store.get_many(keys).values()) == {b"new"}
        assert store.check().faults == ()


def room(place: Path, nodes: int = 1) -> None:
    """On a disk without a free byte everything is read, checked and deleted, and deleting makes room to write."""
    mount("-t", "tmpfs", "-o", "size=60m", "tmpfs", place)
    some = {f"k/{number}": os.urandom(2000) for number in range(200)}
    frames = [f"f/{number}" for number in range(3)]
    filler = place / "filler"

    def crowded(store, left) -> None:
        fill(filler)
        refused(DiskFull, lambda: store.put("new", bytes(1 << 20)))
        refused(DiskFull, lambda: store.put_many(dict.fromkeys(some, bytes(10_000))))
        assert store.get_many(left) == {key: some[key] for key in left}
        assert store.check().faults == ()

    store = eau2.open(place / "store", nodes=nodes)
    store.put_many(some)
    for number, frame in enumerate(frames):
        store.put(frame, big(number + 4))
    left = list(some)
    crowded(store, left)
    assert store.delete_many(left[:20]) == 20
    for key in left[20:40]:
        assert store.delete(key)
    assert store.check().faults == ()
    assert store.delete(frames[0])
    store.put("new", big(2))
    crowded(store, left[40:])
    store.close()
    fill(place / "more")  # the log has gone
    store = eau2.open(place / "store")
    crowded(store, left[40:])
    assert store.delete_many(frames) == 2
    store.put("new", big(8))
    filler.unlink()
    (place / "more").unlink()
    store.put_many(some)  # on every node
    assert store.check().faults == ()
    store.close()
    spares = [path.stat().st_size for path in (place / "store").glob("*/spare")]
    assert len(spares) == nodes
    assert min(spares) == max(spares) > 0


def room_of_three(place: Path) -> None:
    room(place, nodes=3)


def small_values(place: Path, nodes: int = 1, size: int = 3_000, each: int = 1) -> None:
    """A disk filled with small values alone: all that was acknowledged is there, can be deleted, and written anew."""
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", place)
    store = eau2.open(place / "store", nodes=nodes)

    def fill_store() -> list[str]:
        kept: list[str] = []
        while True:
            keys = [hashlib.sha256(b"%d" % (len(kept) + number)).hexdigest() for number in range(each)]
            try:
                store.put_many(dict.fromkeys(keys, bytes(size)))
            except DiskFull:
                return kept
            kept += keys

    kept = fill_store()
    assert len(kept) * (64 + size) * min(nodes, 2) > 3 << 20, len(kept)
    assert store.keys() == sorted(kept)
    for key in kept[:200]:
        assert store.delete(key)
    store.close()
    store = eau2.open(place / "store")
    assert store.check().faults == ()
    step = max(30, len(kept) // 200)
    for start in range(200, len(kept), step):
        assert store.delete_many(kept[start : start + step])
    assert store.keys() == []
    if nodes == 1 and each == 1:  # half full pages stay with what else is in them
        assert len(fill_store()) > 0.8 * len(kept)
    assert store.check().faults == ()
    store.close()


def small_values_of_three(place: Path) -> None:
    small_values(place, nodes=3)


def tiny_values(place: Path) -> None:
    """Their deletes leave pages half full, and are remembered in others."""
    small_values(place, size=20, each=50)


def new_on_full(place: Path) -> None:
    """A store cannot be made on a full disk, and nothing half-made is in the way afterwards."""
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", place)
    (place / "folder").mkdir()
    fill(place / "filler")
    said = refused(DiskFull, lambda: eau2.open(place / "folder" / "store"))
    assert str(place) in said, said
    (place / "filler").unlink()
    with eau2.open(place / "folder" / "store") as store:
        assert store.put("a", b"1") == 1


def read_only(place: Path) -> None:
    """Reads work, writes are ReadOnly, a new store cannot be made."""
    inside = place.parent / "writable"
    with eau2.open(inside / "store") as store:
        store.put("frame", KEPT)
        store.put("bytes", b"kept")
    mount("--bind", inside, place)
    mount("-o", "remount,bind,ro", place)
    os.chdir(place)
    with eau2.open(place / "store") as store:
        unchanged(store)
        for write in (
            lambda: store.put("bytes", b"x"),
            lambda: store.put("new", KEPT),
            lambda: store.delete("bytes"),
            lambda: store.create("new", b""),
            lambda: store.update("bytes", b""),
            lambda: store.put_many({"a": b""}),
            lambda: store.delete_many(["bytes"]),
            lambda: store.put_file("a", __file__),
        ):
            assert str(place) in refused(ReadOnly, write)
            unchanged(store)
        assert store.check().faults == ()
        assert store.statistics().keys == 2
        with eau2.open(inside / "store") as writer:  # another process may well write
            writer.put("later", b"1")
            assert store.get("later") == b"1"
            writer.delete("later")
        unchanged(store)
    assert str(place) in refused(ReadOnly, lambda: eau2.open(place / "new"))


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
    print("right")
