"""What `eau2 doctor` looks at. Works without a store and with a broken one: it never raises for what it finds."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import apsw

from eau2.cli.screen import counted, seconds_text, size_text
from eau2.cli.versions import versions
from eau2.errors import Eau2Error
from eau2.machine import container_memory_bytes, cores
from eau2.opening import open as open_store
from eau2.store.store import VALUE_BYTES_MAX
from eau2.values.chunk import CHUNK_BYTES_MAX
from eau2.values.key import KEY_BYTES_MAX

FILES_OPEN_MIN = 4096  # a query over a frame of 1,000 chunks, with room for the rest
DISK_FREE_BYTES_MIN, DISK_FREE_BYTES_BROKEN = 2 << 30, 64 << 20
MEMORY_BYTES_MIN = 1 << 30
SHARED_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}
OPEN_SLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that looks off. `broken`: commands fail because of it; otherwise it is worth knowing."""

    what: str
    hint: str
    broken: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What there is, in groups of name and text, and what looks off."""

    groups: dict[str, dict[str, str]]
    findings: list[Finding]

    def to_dict(self) -> dict[str, object]:
        """Return what `eau2 doctor --json` prints."""
        return {
            "ok": not any(finding.broken for finding in self.findings),
            **self.groups,
            "findings": [
                {"what": finding.what, "hint": finding.hint, "broken": finding.broken} for finding in self.findings
            ],
        }


def examine(store_path: str) -> Diagnosis:
    """Look at the store at `store_path`, which is neither made nor changed, and at the machine. About 50 ms."""
    findings: list[Finding] = []
    groups = {
        "versions": versions() | {"sqlite": apsw.sqlite_lib_version()},
        "machine": _machine(findings),
        "limits": _limits(findings),
        "store": _place(store_path, findings) | _store(store_path, findings),
    }
    return Diagnosis(groups, findings)


def _machine(findings: list[Finding]) -> dict[str, str]:
    memory, free = _memory()
    limit = container_memory_bytes()
    usable = min(memory, limit) if limit else memory
    if usable < MEMORY_BYTES_MIN:
        findings.append(
            Finding(f"only {size_text(usable)} of memory may be used", "give the machine or the container 1 GB or more")
        )
    if limit and limit < memory:
        findings.append(
            Finding(
                f"this container may use {size_text(limit)} of the machine's {size_text(memory)} of memory",
                f"queries spill beyond {size_text(limit // 2)}; memory_bytes= sets another bound",
            )
        )
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": f"{cores()} of {os.cpu_count()}",
        "memory": f"{size_text(memory)}, {size_text(free)} free",
        "memory limit": size_text(limit) if limit else "none",
    }


def _memory() -> tuple[int, int]:
    """Return all and available bytes of memory."""
    sizes = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _limits(findings: list[Finding]) -> dict[str, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES_OPEN_MIN:
        findings.append(
            Finding(
                f"a process may open {soft:,} files, and large frames are many files",
                f"`ulimit -n {FILES_OPEN_MIN if hard < 0 else min(hard, 65536)}` before starting",
            )
        )
    maps = _number(Path("/proc/sys/vm/max_map_count"))
    address, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address >= 0:
        findings.append(
            Finding(
                f"a process may use {size_text(address)} of address space, which mapped frames count against",
                "`ulimit -v unlimited` before starting",
            )
        )
    return {
        "open files": f"{soft:,} of {hard:,}" if hard >= 0 else f"{soft:,}",
        "memory maps": f"{maps:,}" if maps else "unknown",
        "key": f"{KEY_BYTES_MAX} bytes",
        "value": f"{VALUE_BYTES_MAX >> 20} MiB; files and frames have none",
        "chunk": f"{CHUNK_BYTES_MAX >> 20} MiB",
    }


def _place(store_path: str, findings: list[Finding]) -> dict[str, str]:
    """Look at the file system on which the store is, or would be."""
    path = Path(os.path.abspath(store_path))  # links stay as they were typed
    there = next((place for place in (path, *path.parents) if place.exists()), Path("/"))
    try:
        disk = shutil.disk_usage(there)
        nodes = os.statvfs(there)
    except OSError as error:
        findings.append(Finding(f"{there} cannot be looked at: {error.strerror}", "see who may read it", broken=True))
        return {"path": str(path)}
    kind = file_system(there)
    if disk.free < DISK_FREE_BYTES_MIN:
        findings.append(
            Finding(
                f"the disk of {there} has {size_text(disk.free)} left",
                "free some space, or choose another directory with --store",
                broken=disk.free < DISK_FREE_BYTES_BROKEN,
            )
        )
    if nodes.f_files and nodes.f_favail < 1000:
        findings.append(Finding(f"the disk of {there} has room for {nodes.f_favail} more files", "remove some files"))
    if kind in SHARED_FILE_SYSTEMS:
        findings.append(
            Finding(
                f"{there} is on {kind}, where processes cannot share a store safely", "use a local disk", broken=True
            )
        )
    if kind in MEMORY_FILE_SYSTEMS:
        findings.append(Finding(f"{there} is on {kind}: a store there is gone after a restart", "use a disk"))
    if not os.access(there, os.W_OK | os.X_OK):
        findings.append(Finding(f"{there} cannot be written by this user", "change its owner or its mode"))
    return {
        "path": str(path),
        "file system": kind,
        "disk": f"{size_text(disk.total)}, {size_text(disk.free)} free",
    }


def file_system(path: Path) -> str:
    """Return the kind of the file system that holds `path`, as the kernel calls it."""
    best, kind = "", "unknown"
    real = os.path.realpath(path)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split(" ")
        mount = mount.encode().decode("unicode_escape")  # blanks are \040
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def _store(store_path: str, findings: list[Finding]) -> dict[str, str]:
    """Open the store, when there is one, and count."""
    path = Path(store_path)
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return {"state": "there is none; `eau2 put` and `eau2 load` make one"}
        begun = time.monotonic()
        with open_store(store_path) as store:
            counts = store.statistics()
        seconds = time.monotonic() - begun
    except (Eau2Error, OSError) as error:
        message = error.message if isinstance(error, Eau2Error) else str(error)
        hint = error.hint if isinstance(error, Eau2Error) else ""
        findings.append(Finding(message, hint or "choose another directory with --store", broken=True))
        return {"state": f"cannot be opened: {type(error).__name__}"}
    if seconds > OPEN_SLOW_SECONDS:
        findings.append(Finding(f"opening the store took {seconds_text(seconds)}", "see whether the disk is busy"))
    return {
        "state": f"opened in {seconds_text(seconds)}",
        "holds": f"{counted(counts.keys, 'key')}, {counts.frames:,} of them frames or files",
        "chunks": f"{counts.chunks:,}, {size_text(counts.chunk_bytes)}",
        "database": size_text(counts.value_bytes),
    }
