"""Memory of large messages is used again, and given back when nobody asks for anything, and in the end."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from eau2.doors import flight_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
LARGE = 40 << 20


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def use():
    found = libc.malloc(LARGE)
    ctypes.memset(found, 1, LARGE)
    behind = libc.malloc(1000)  # stays: the end of the heap alone is no use
    libc.free(found)


began = resident()
use()
small = resident() - began < LARGE // 2
memory, other = flight_memory.ReusedMemory(), flight_memory.ReusedMemory()
use()
kept = resident() - began > LARGE // 2
use()
used_again = resident() - began < 3 * LARGE // 2
memory.look(100.0, 99.0)
busy = resident() - began > LARGE // 2
memory.look(106.0, 99.0)
idle = resident() - began < LARGE // 2
use()
memory.look(107.0, 99.0)
nothing_new = resident() - began > LARGE // 2
memory.close()
memory.close()
still = resident() - began > LARGE // 2
other.close()
ended = resident() - began < LARGE // 2
use()
print(flight_memory._set is not None, small, kept, used_again, busy, idle, nothing_new, still, ended)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="as glibc does it")
def test_freed_memory_is_kept_for_what_comes_next_and_given_back_when_nothing_comes():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    if done.stdout.startswith("False"):
        pytest.skip("not glibc")
    assert done.stdout.split() == ["True"] * 9
