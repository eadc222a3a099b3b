"""A full disk and a directory that cannot be written are errors that change nothing, and reads go on.

Both need a mount of their own, made in a private mount namespace by another process; skipped where that is not allowed.
"""

from __future__ import annotations

import shutil
import subprocess

import pytest
from tests.until import SECONDS_MAX

from eau2.store.node import DirectoryNode
from eau2.store.nodes import Kind, Write


@pytest.fixture(scope="module")
def namespace():
    """The words before a command that runs it as root of a private mount namespace."""
    for words in (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount")):
        if shutil.which("unshare"):
            tried = subprocess.run(
                [*words, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False, timeout=20
            )
            if tried.returncode == 0:
                return words
    pytest.skip("private mounts are not allowed here")
    return ()


def run(frames, namespace, script, *arguments):
    running = frames.run_python(script, *arguments, prefix=namespace)
    try:
        out, err = running.communicate(timeout=5 * SECONDS_MAX)
    finally:
        running.kill()
    assert running.returncode == 0, out + err
    return out


FULL = """
import os, subprocess, sys
from conftest import *
from eau2.errors import DiskFull
place = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=True)
node = DirectoryNode(place + "/n")
chunks = some_chunks(3, rows=100_000)
put_frame(node, "frame", chunks)
node.write([Write("kept", Kind.BYTES, b"kept")])
filler = open(place + "/filler", "wb", buffering=0)
try:
    while filler.write(bytes(4096)): pass
except OSError: pass

def refused(write):
    try: write()
    except DiskFull as error: return str(error)
    raise SystemExit("no DiskFull")

for number in range(5):
    refused(lambda: put_frame(node, "big", some_chunks(20, seed=1, rows=100_000)))
    said = refused(lambda: node.write([Write("kept", Kind.BYTES, bytes(8 << 20)), Write("new", Kind.BYTES, b"x")]))
    assert node.get("kept").payload == b"kept", "changed"
    assert node.keys() == ["frame", "kept"], node.keys()
    assert [data.size for data in node.map([chunk.id for chunk in chunks])] == [chunk.size for chunk in chunks]
    assert not [path for path in Path(place).rglob("staging/*/*") if path.name != "lock"]
assert place in said, said
filler.close()
os.unlink(place + "/filler")
assert node.check().faults == ()
assert node.write([Write("new", Kind.BYTES, b"x" * 1000)]) == [1]
assert put_frame(node, "frame", chunks[:1]) == 2
assert len(list(Path(place).rglob("*.arrow"))) == 1
node.close()
again = DirectoryNode(place + "/n")
assert again.check().faults == ()
again.close()
print("right")
"""


@pytest.mark.slow
def test_a_full_disk_fails_writes_changes_nothing_and_heals(tmp_path, frames, namespace):
    assert run(frames, namespace, FULL, tmp_path) == "right\n"


EDGE = """
import os, subprocess, sys
from conftest import *
from eau2.errors import DiskFull
place = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], check=True)
node, acknowledged, full = DirectoryNode(place + "/n"), {}, 0
for number in range(4000):
    key = f"k{number % 400}"
    try:
        node.write([Write(key, Kind.BYTES, bytes([number % 251]) * 50_000)])
    except DiskFull:
        full += 1
        if full > 30: break
    else:
        acknowledged[key] = number % 251
assert full, "never full"
for key, byte in acknowledged.items():
    assert node.get(key).payload == bytes([byte]) * 50_000, key
assert node.check().faults == ()
node.close()
again = DirectoryNode(place + "/n")
for key, byte in acknowledged.items():
    assert again.get(key).payload == bytes([byte]) * 50_000, key
again.close()
print("right")
"""


def test_writing_until_the_disk_is_full_keeps_every_acknowledged_value(tmp_path, frames, namespace):
    assert run(frames, namespace, EDGE, tmp_path) == "right\n"


AFTER_DELETES = """
import os, subprocess, sys
from conftest import *
from eau2.errors import DiskFull
place, size = sys.argv[1], int(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", place], check=True)

def put_until_full(first):
    for number in range(first, 200_000):
        try: node.write([Write(f"k{number}", Kind.BYTES, os.urandom(size))])
        except DiskFull: return number
    raise SystemExit("never full")

def fill():
    with open(place + "/filler", "ab", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)): pass
        except OSError: pass

node = DirectoryNode(place + "/n")
count = put_until_full(0)
fill()  # others have the last room
deleted = range(0, count // 20)
for number in deleted:
    assert node.write([Write(f"k{number}", Kind.DELETED)])[0] > 0
fill()
there = put_until_full(count)
assert there - count >= len(deleted) // 2, (count, there - count)
for number in range(count, there, 2):  # and then there is room for deletes still
    assert node.write([Write(f"k{number}", Kind.DELETED)])[0] > 0
assert len(node.keys()) == count - len(deleted) + (there - count) // 2
assert node.check().faults == ()
node.close()
again = DirectoryNode(place + "/n")
assert len(again.keys()) == count - len(deleted) + (there - count) // 2
again.close()
print("right")
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [3_000, 50_000])
def test_what_deletes_leave_free_can_be_used_though_the_disk_is_full(tmp_path, frames, namespace, size):
    assert run(frames, namespace, AFTER_DELETES, tmp_path, size) == "right\n"


READ_ONLY = """
import subprocess, sys
from conftest import *
from eau2.errors import ReadOnly
original, place = sys.argv[1:]
subprocess.run(["mount", "--bind", original, place], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
reader = DirectoryNode(place + "/n")
assert reader.read_only
assert reader.get("a").payload == b"1"
assert reader.keys() == ["a", "f"]
(chunk,) = some_chunks(1)
assert reader.map([chunk.id])[0].size == chunk.size
assert reader.check().faults == (), reader.check()
for write in (lambda: reader.write([Write("a", Kind.BYTES, b"")]), lambda: reader.stage(chunk)):
    try: write()
    except ReadOnly as error: assert place in str(error)
    else: raise SystemExit("no ReadOnly")
writer = DirectoryNode(original + "/n")  # the same files, where they can be written
for version in range(2, 30):
    writer.write([Write("a", Kind.BYTES, b"%d" % version)])
    for _ in range(3):
        assert reader.get("a").payload == b"%d" % version, (version, reader.get("a"))
since = reader.generation()
writer.write([Write("b", Kind.BYTES, b"")])
assert reader.wait_for_write(since, 5) != since
writer.close()
reader.close()
try: DirectoryNode(place + "/absent")
except ReadOnly as error: assert "absent" in str(error)
else: raise SystemExit("made something")
print("right")
"""


@pytest.mark.slow
def test_a_directory_that_cannot_be_written_is_read(tmp_path, frames, namespace):
    original, place = tmp_path / "original", tmp_path / "place"
    original.mkdir()
    place.mkdir()
    node = DirectoryNode(original / "n")
    node.write([Write("a", Kind.BYTES, b"1")])
    frames.put(node, "f", frames.some_chunks(1))
    node.close()
    assert run(frames, namespace, READ_ONLY, original, place) == "right\n"
