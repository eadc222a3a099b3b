"""What a process takes of its machine, and what the machine has: from /proc, or elsewhere what Python itself knows."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from dataclasses import dataclass, field

from eau2.machine import cores, memory_of_machine
from eau2.metrics.report import counter, gauge

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FILES = "/proc/self/fd"
_THREADS_FIELD, _RESIDENT_FIELD = 17, 21  # of /proc/self/stat, behind the name, which may hold anything


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """The process of a node, its machine, and the disk of its directory. None is not known on this system."""

    processor_seconds: float = field(metadata=counter("Processor time that the process has used.", "seconds"))
    cores: int = field(metadata=gauge("Processors that the process may run on.", "cores"))
    load: float | None = field(metadata=gauge("Processes of the machine that ran or waited, over the last minute."))
    resident_bytes: int = field(metadata=gauge("Memory of the process that is in use.", "bytes"))
    memory_bytes: int = field(metadata=gauge("Memory of the machine, or of its container.", "bytes"))
    memory_free_bytes: int | None = field(metadata=gauge("Memory of the machine that can be had at once.", "bytes"))
    disk_bytes: int | None = field(metadata=gauge("Size of the disk that has the node's directory.", "bytes"))
    disk_free_bytes: int | None = field(metadata=gauge("Free room on the disk of the node's directory.", "bytes"))
    open_files: int | None = field(metadata=gauge("Files and sockets that the process has open.", "files"))
    threads: int = field(metadata=gauge("Threads of the process.", "threads"))


def process_statistics(directory: str | os.PathLike[str]) -> ProcessStatistics:
    """Return those of this process, with the disk of `directory`. About 0.1 ms. Raises nothing: a directory that is
    gone has no disk."""
    load = disk_bytes = disk_free_bytes = None
    with contextlib.suppress(OSError):
        load = os.getloadavg()[0]
    with contextlib.suppress(OSError):
        disk = os.statvfs(directory)
        disk_bytes, disk_free_bytes = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    threads, resident_bytes = _threads_and_memory()
    return ProcessStatistics(
        processor_seconds=time.process_time(),
        cores=cores(),
        load=load,
        resident_bytes=resident_bytes,
        memory_bytes=_memory_bytes(),
        memory_free_bytes=_memory_free_bytes(),
        disk_bytes=disk_bytes,
        disk_free_bytes=disk_free_bytes,
        open_files=_open_files(),
        threads=threads,
    )


def _threads_and_memory() -> tuple[int, int]:
    with contextlib.suppress(OSError, IndexError, ValueError), open("/proc/self/stat", "rb") as file:
        behind_name = file.read().rpartition(b")")[2].split()
        return int(behind_name[_THREADS_FIELD]), int(behind_name[_RESIDENT_FIELD]) * _PAGE_BYTES
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most it ever was, the best that is known
    return threading.active_count(), most if sys.platform == "darwin" else most << 10


def _open_files() -> int | None:
    with contextlib.suppress(OSError):
        # Newer kernels count them as the directory's size; to list 10,000 takes 5 ms.
        return os.stat(_FILES).st_size or len(os.listdir(_FILES)) - 1  # the listing itself has one open
    return None


_of_machine: list[int] = []  # it stays what it is, and to find it reads a dozen files


def _memory_bytes() -> int:
    if not _of_machine:
        _of_machine.append(memory_of_machine())
    return _of_machine[0]


def _memory_free_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * _PAGE_BYTES
    return None
