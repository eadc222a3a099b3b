"""Memory of large messages is used again, and not given back after each."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from eau2.doors import flight_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def left():
    before = resident()
    found = libc.malloc(40 << 20)
    ctypes.memset(found, 1, 40 << 20)
    libc.free(found)
    return resident() - before


before = left()
print(flight_memory.reuse(), before < 10 << 20, left() > 30 << 20, left() < 10 << 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="as glibc does it")
def test_freed_memory_is_kept_for_what_comes_next():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    if done.stdout.startswith("False"):
        pytest.skip("not glibc")
    assert done.stdout.split() == ["True"] * 4
