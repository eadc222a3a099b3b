"""Linus over small data: as frames that are there, as a program on all nodes, and in plain Python, which must agree."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import eau2
from eau2.demo import data
from eau2.programs.finding import program_in

SIZE = {"users": 6_000, "projects": 3_000, "commits": 20_000, "text_bytes": 0}  # as the demo makes them
DEGREES = 3
KINDS = ("users", "projects", "commits")
DEMO = Path(__file__).parents[2] / "demos" / "linus.py"


@functools.cache
def program():
    found = program_in(str(DEMO))
    sys.path.remove(str(DEMO.parent))
    return found


def put_frames(store: eau2.Store) -> None:
    """Have the data in `store`, for `check_frames`."""
    with tempfile.TemporaryDirectory() as folder:
        made = data.make(folder, **SIZE)
        for kind in KINDS:
            store.load(f"network/{kind}", getattr(made, kind), progress=False)


def check_frames(store: eau2.Store) -> None:
    frames = [store.frame(f"network/{kind}") for kind in KINDS]
    found = eau2.linus(*frames, degrees=DEGREES).to_dict()["degrees"]
    assert found == expected(), f"{found} is not {expected()}"


def check_program(store: eau2.Store) -> None:
    for answer in eau2.run(program(), on=store, degrees=DEGREES, patience_seconds=60.0):
        found = answer["degrees"]
        assert found == expected(), f"{found} is not {expected()}"


@functools.cache
def expected() -> list[dict[str, int]]:
    """Whom and what is reached in each degree, commit after commit."""
    with tempfile.TemporaryDirectory() as folder:
        lines = data.make(folder, **SIZE).commits.read_text().splitlines()
    commits = {tuple(int(word) for word in line.strip("<>").split("><")[:2]) for line in lines}
    users: set[int] = set()
    projects: set[int] = set()
    new_users, degrees = {data.LINUS}, []
    for degree in range(1, DEGREES + 1):
        new_projects = {project for project, author in commits if author in new_users} - projects
        projects |= new_projects
        new_users = {author for project, author in commits if project in new_projects} - users
        users |= new_users
        counts = degree, len(new_projects), len(projects), len(new_users), len(users)
        degrees.append(dict(zip(("degree", "new_projects", "projects", "new_users", "users"), counts, strict=True)))
    return degrees
