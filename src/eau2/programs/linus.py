"""Linus: degrees of separation. Which projects and users does one user reach through common projects?

For each degree: new projects are those that a new user has authored a commit to and that were not reached before; new
users are the authors of commits to the new projects who were not reached before. The committer is never read. It
starts with the one user, who is new but not reached: he enters with the authors of his own projects.

A user's id is valid in [0, number of users), a project's in [0, number of projects). A commit with an id that is not,
or that is missing, is ignored and counted.

Memory: 8 bytes a commit (two 32-bit ids; 16 when there are over 2 billion users or projects) and 1.125 bytes a user
and a project (the degree at which each was reached, and one bit for what is new). The full GitHub data, 117,936,711
commits, 32,411,734 users and 125,486,231 projects, is 0.94 GB + 0.18 GB. Names are read past, not kept. Time: two
passes over the commits a degree that finds something.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eau2.errors import InvalidOption, InvalidValue
from eau2.ingest.reading import read
from eau2.programs.parallel import in_order, thread_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from numpy.typing import NDArray

    from eau2.frame.frame import Frame

    Source: TypeAlias = str | os.PathLike[str] | Frame

DEGREES_MAX = 254  # the degree at which something was reached is one byte, and 0 stands for never
ROWS_A_PIECE = 1 << 20  # what a thread looks at in one go: about 10 ms, and 20 MB of temporary memory


@dataclass(frozen=True, slots=True)
class Degree:
    """What one degree found, and what is reached after it."""

    degree: int  # from 1
    new_projects: int
    projects: int
    new_users: int
    users: int


class DegreesDict(TypedDict):
    """What `eau2 linus --json` prints."""

    users: int
    projects: int
    commits: int
    ignored_commits: int
    degrees: list[dict[str, int]]


@dataclass(frozen=True, slots=True)
class Degrees:
    """The answer of `linus`."""

    users: int  # rows of the users
    projects: int
    commits: int  # ignored ones too
    ignored_commits: int  # with an id that is missing or outside
    degrees: tuple[Degree, ...]  # as many as were asked for
    warning: str = ""  # a sentence when the user is none of the users, so that nothing can be found

    def to_dict(self) -> DegreesDict:
        """Return what `eau2 linus --json` prints."""
        return {
            "users": self.users,
            "projects": self.projects,
            "commits": self.commits,
            "ignored_commits": self.ignored_commits,
            "degrees": [asdict(degree) for degree in self.degrees],
        }


def linus(
    users: Source,
    projects: Source,
    commits: Source,
    *,
    user: int = 4967,
    degrees: int = 4,
    threads: int | None = None,
    progress: bool | None = False,
) -> Degrees:
    """Return whom and what `user` reaches in `degrees` steps (1 to DEGREES_MAX).

    Each source is the path of a file that `store.load` can read (SoR, CSV, Parquet, ...), or a Frame. A user's or
    project's id is its row number. The first two columns of the commits are the project's and the author's id.
    `progress` shows a bar for each file, as in `store.load`.

    Raises LoadError when a file cannot be read, InvalidValue when the commits do not begin with two integer columns,
    InvalidOption.
    """
    if not 1 <= degrees <= DEGREES_MAX:
        raise InvalidOption(f"degrees is 1 to {DEGREES_MAX}, not {degrees}")
    threads = thread_count(threads)
    user_count, project_count = _rows(users, threads, progress), _rows(projects, threads, progress)
    links = _links(commits, user_count, project_count, threads, progress)
    warning = ""
    if not 0 <= user < user_count:
        warning = (
            f"there is no user {user} among the {user_count:,} users, who are numbered from 0; so nothing is reached"
        )
    found = _walk(links, user, user_count, project_count, degrees, threads)
    return Degrees(user_count, project_count, links.rows, links.ignored, found, warning)


# --- reading


@dataclass(slots=True)
class _Links:
    """The commits that count: pieces of (project ids, author ids), of one integer type, none missing."""

    pieces: list[tuple[pa.Array, pa.Array]]
    rows: int = 0
    ignored: int = 0


def _rows(source: Source, threads: int, progress: bool | None) -> int:
    if not isinstance(source, (str, os.PathLike)):
        return source.rows
    reading = read(source, progress=progress, threads=threads)
    rows, _ = reading.run(lambda _, batches: sum(int(batch.num_rows) for batch in batches))
    return rows


def _links(commits: Source, users: int, projects: int, threads: int, progress: bool | None) -> _Links:
    def pack(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> _Links:
        links = _Links([])
        pieces = _pieces(schema, batches)
        for project, author, rows in in_order(lambda piece: valid_links(*piece, projects, users), pieces, threads):
            links.rows += rows
            links.ignored += rows - len(project)
            if len(project):
                links.pieces.append((project, author))
        return links

    if isinstance(commits, (str, os.PathLike)):
        links, _ = read(commits, progress=progress, threads=threads).run(pack)
        return links
    return pack(commits.schema, commits.batches())


def _pieces(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Array, pa.Array]]:
    for batch in batches:
        _check_columns(batch.schema)
        for start in range(0, batch.num_rows, ROWS_A_PIECE):
            piece = batch.slice(start, ROWS_A_PIECE)
            yield piece.column(0), piece.column(1)


def _check_columns(schema: pa.Schema) -> None:
    kinds = [field.type for field in schema][:2]
    # BOOL is what a file whose ids are all 0 or 1 has; null what Parquet has for a column without a value.
    if len(kinds) < 2 or not all(map(_may_hold_ids, kinds)):
        found = ", ".join(f"{field.name} {field.type}" for field in schema) or "none"
        hint = "their order is project, author, committer"
        raise InvalidValue(f"commits have two columns of integers first, these have: {found}", hint=hint)


def _may_hold_ids(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def valid_links(project: pa.Array, author: pa.Array, projects: int, users: int) -> tuple[pa.Array, pa.Array, int]:
    """Return those pairs whose ids are there and inside [0, projects) and [0, users), and how many pairs there were."""
    left, right = _ids(project), _ids(author)
    valid = (left < np.uint64(projects)) & (right < np.uint64(users))
    if not valid.all():
        left, right = left[valid], right[valid]
    small = np.int32 if max(projects, users) <= 1 << 31 else np.int64
    return pa.array(left.astype(small)), pa.array(right.astype(small)), len(project)


def _ids(column: pa.Array) -> NDArray[np.uint64]:
    """Return ids as unsigned numbers: what is negative or missing is larger than any that is valid."""
    if not pa.types.is_int64(column.type):
        column = column.cast(pa.int64(), safe=False)
    ids: NDArray[np.int64] = column.fill_null(-1).to_numpy(zero_copy_only=False)
    return ids.view(np.uint64)


# --- walking


def _walk(links: _Links, user: int, users: int, projects: int, degrees: int, threads: int) -> tuple[Degree, ...]:
    reached_projects, reached_users = _Reached(projects), _Reached(users)
    new_users = reached_users.only(user) if 0 <= user < users else None
    found: list[Degree] = []
    for degree in range(1, degrees + 1):
        project_count = user_count = 0
        if new_users is not None:
            swapped = ((author, project) for project, author in links.pieces)
            project_count, new_projects = reached_projects.follow(swapped, new_users, degree, threads)
            if project_count:
                user_count, new_users = reached_users.follow(links.pieces, new_projects, degree, threads)
        if not user_count:
            new_users = None  # the rest of the degrees find nothing
        found.append(Degree(degree, project_count, reached_projects.count, user_count, reached_users.count))
    return tuple(found)


class _Reached:
    """Of all users, or of all projects, the degree at which each was reached: 0 for not yet."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self._degree = np.zeros(size, np.uint8)

    def only(self, index: int) -> pa.BooleanArray:
        """Return a bit set with the one id, which does not count as reached."""
        bits = np.zeros(-(-len(self._degree) // 8), np.uint8)
        bits[index >> 3] = 1 << (index & 7)
        return self._bit_set(bits)

    def follow(
        self, links: Iterable[tuple[pa.Array, pa.Array]], sources: pa.BooleanArray, degree: int, threads: int
    ) -> tuple[int, pa.BooleanArray]:
        """Reach, at `degree`, the targets of the links (source, target) whose source is in the bit set `sources`.

        Return how many were not reached before, and their bit set.
        """

        def mark(piece: tuple[pa.Array, pa.Array]) -> None:
            source, target = piece
            chosen = pc.call_function("take", [sources, source], pc.TakeOptions(boundscheck=False))
            targets = pc.filter(target, chosen).to_numpy(zero_copy_only=False)
            # Threads may meet at one target: both find 0 or `degree` there and both write `degree`.
            self._degree[targets[self._degree[targets] == 0]] = degree

        for _ in in_order(mark, links, threads):
            pass
        return self._reached_at(degree)

    def _reached_at(self, degree: int) -> tuple[int, pa.BooleanArray]:
        bits = np.empty(-(-len(self._degree) // 8), np.uint8)
        new = 0
        for start in range(0, len(self._degree), ROWS_A_PIECE):  # a multiple of 8
            mask = self._degree[start : start + ROWS_A_PIECE] == degree
            new += int(np.count_nonzero(mask))
            packed = np.packbits(mask, bitorder="little")
            bits[start >> 3 : (start >> 3) + len(packed)] = packed
        self.count += new
        return new, self._bit_set(bits)

    def _bit_set(self, bits: NDArray[np.uint8]) -> pa.BooleanArray:
        return pa.Array.from_buffers(pa.bool_(), len(self._degree), [None, pa.py_buffer(bits)])
