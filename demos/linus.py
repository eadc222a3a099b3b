"""Linus, degrees of separation: which projects and users does one user reach through common projects?

    eau2 run demos/linus.py --nodes 4         # small data of its own; or yours, as SoR files:
    eau2 run demos/linus.py --nodes 4 --param users=u.sor --param projects=p.sor --param commits=c.sor --param degrees=7

Every node reads its part of each file and keeps its part of the commits. In each degree a node looks where new users
lead in its own commits, and then where new projects lead, and puts what it found: only that travels. What is reached is
a set of bits, the same on all nodes. Of 118 million commits to 125 million projects the nodes keep 0.94 GB together.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

import eau2
from eau2.demo import data

SMALL = {"users": 6_000, "projects": 3_000, "commits": 20_000, "text_bytes": 0}  # what it runs on when given no files
DEGREE = ("degree", "new_projects", "projects", "new_users", "users")


class Linus(eau2.Application):
    users: Path | None = None  # (uid, name); a uid is a row number
    projects: Path | None = None  # (pid, name); likewise
    commits: Path | None = None  # (pid, uid of the author, uid of the committer)
    linus: int = 4967
    degrees: int = 4
    patience_seconds: float = 3600.0  # how long one waits for the slowest of the others

    def run(self) -> dict[str, object]:
        if self.this_node == 0:
            self.store.delete_many(self.store.keys("linus-"))  # of an earlier run: they would be taken for this one's
        self.barrier("begin")
        with tempfile.TemporaryDirectory() as folder:
            files = self if self.users and self.projects and self.commits else data.make(folder, **SMALL)
            parts = [self.load(kind, getattr(files, kind)) for kind in ("users", "projects", "commits")]
        users, projects, commits = (sum(part.rows for part in kind) for kind in parts)
        links = [valid(batch, projects, users) for part in parts[2] for batch in self.local(part)]
        backwards = [(author, project) for project, author in links]
        self.store.put(f"linus-valid-{self.this_node}", b"%d" % sum(len(project) for project, _ in links))
        ignored = commits - sum(map(int, self.of_all("linus-valid")))
        say = print if self.this_node == 0 else str  # one speaks for all
        say(f"{users} users, {projects} projects, {commits} commits, {ignored} of them with unknown ids and ignored")

        tagged_users, tagged_projects, new_users = Bits(users), Bits(projects), Bits(users)
        new_users.add(np.array([self.linus] if 0 <= self.linus < users else [], int))
        degrees = []
        for degree in range(1, self.degrees + 1):
            new_projects = self.follow(f"linus-projects-{degree}", backwards, new_users, tagged_projects)
            new_users = self.follow(f"linus-users-{degree}", links, new_projects, tagged_users)
            sets = new_projects, tagged_projects, new_users, tagged_users
            sizes = [int(np.bitwise_count(found.bits).sum(dtype=int)) for found in sets]
            say("degree {}: {} new projects, {} in all; {} new users, {} in all".format(degree, *sizes))
            degrees.append(dict(zip(DEGREE, (degree, *sizes), strict=True)))
        return {"commits": commits, "ignored_commits": ignored, "degrees": degrees}

    def load(self, kind: str, path: Path) -> list[eau2.Frame]:
        """Load this node's part of a file, the lines that start in it; return the parts of all nodes."""
        size, node, count = path.stat().st_size, self.this_node, self.node_count
        part = size * node // count, size * (node + 1) // count
        self.store.load(f"linus-{kind}-{node}", path, byte_range=part, progress=False)
        return self.of_all(f"linus-{kind}")

    def follow(self, name: str, links: list[tuple[np.ndarray, np.ndarray]], sources: "Bits", tagged: "Bits") -> "Bits":
        """Tag where the links (source, target) from `sources` lead, on all nodes; return what was not tagged before."""
        new = Bits(tagged.size)
        for source, target in links:
            reached = target[sources.has(source)]
            new.add(reached[~tagged.has(reached)])
        self.store.put(f"{name}-{self.this_node}", {"id": np.flatnonzero(np.unpackbits(new.bits, bitorder="little"))})
        for part in self.of_all(name):
            new.add(part["id"].to_numpy())
        tagged.bits |= new.bits
        return new

    def of_all(self, name: str) -> list:
        return [self.store.wait(f"{name}-{i}", timeout_seconds=self.patience_seconds) for i in range(self.node_count)]


class Bits:
    """A set of whole numbers from 0 to size - 1, a bit each."""

    def __init__(self, size: int) -> None:
        self.size, self.bits = size, np.zeros(size // 8 + 1, np.uint8)

    def has(self, ids: np.ndarray) -> np.ndarray:
        return (self.bits[ids >> 3] >> (ids & 7).astype(np.uint8)) & 1 != 0

    def add(self, ids: np.ndarray) -> None:
        np.bitwise_or.at(self.bits, ids >> 3, (1 << (ids & 7)).astype(np.uint8))


def valid(batch: pa.RecordBatch, projects: int, users: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the projects and authors of the commits whose ids are there."""
    project, author = (batch[column].cast("int64").fill_null(-1).to_numpy(zero_copy_only=False) for column in (0, 1))
    known = (project >= 0) & (project < projects) & (author >= 0) & (author < users)
    return project[known].astype(np.int32), author[known].astype(np.int32)
