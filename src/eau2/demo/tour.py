"""The tour: what the demo does, in order, and what came of it. It uses what `import eau2` gives, and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import eau2
from eau2.demo import data, neighbour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eau2.programs.linus import Degrees
    from eau2.programs.wordcount import WordCount

Result = TypeVar("Result")
DEGREES = 4
COLUMNS = {
    "users": ["uid", "login"],
    "projects": ["pid", "name"],
    "commits": ["pid", "author", "committer"],
}
QUESTIONS = {
    "Which projects have the most authors?": """
        select p.name, count(distinct c.author) as authors
        from commits c join projects p on p.pid = c.pid
        group by p.pid, p.name order by authors desc, p.name limit 3""",
    "How many projects hang on one person?": """
        select count(*) filter (where authors = 1) as on_one,
               count(*) filter (where authors between 2 and 9) as on_two_to_nine,
               count(*) filter (where authors > 9) as on_ten_or_more
        from (select pid, count(distinct author) as authors from commits group by pid) as projects""",
    "Who shares most projects with torvalds?": f"""
        select u.login, count(distinct theirs.pid) as projects
        from commits mine join commits theirs on mine.pid = theirs.pid join users u on u.uid = theirs.author
        where mine.author = {data.LINUS} and theirs.author <> {data.LINUS}
        group by u.uid, u.login order by projects desc, u.login limit 3""",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that became a frame."""

    report: eau2.LoadReport
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, and its answer's rows."""

    question: str
    rows: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True, slots=True)
class Tour:
    """What came of it."""

    folder: Path
    paths: data.Paths
    data_seconds: float
    loaded: list[Loaded]
    words: WordCount
    words_bytes: int
    words_seconds: float
    degrees: Degrees
    degrees_seconds: float
    answered: list[Answered]
    sight: neighbour.Sight
    seconds: float  # all of it


def walk(folder: Path, say: Callable[[str], None], **sizes: int) -> Tour:
    """Make the data and the store in `folder` and do everything. `say` is told what is next; `sizes` as data.make."""
    begun = time.perf_counter()
    say("Making a GitHub-like data set")
    paths, data_seconds = _timed(lambda: data.make(folder, **sizes))
    with eau2.open(folder / "store") as store:
        loaded = []
        for key, columns in COLUMNS.items():
            say(f"Loading {key}")
            report = store.load(key, getattr(paths, key), schema=columns, progress=False)
            loaded.append(Loaded(report, store.frame(key).bytes or 0))
        say("Counting words")
        words, words_seconds = _timed(lambda: eau2.wordcount(paths.text))
        say("Walking from torvalds")
        users, projects, commits = (store.frame(key) for key in COLUMNS)
        degrees, degrees_seconds = _timed(
            lambda: eau2.linus(users, projects, commits, user=data.LINUS, degrees=DEGREES)
        )
        answered = []
        for question, query in QUESTIONS.items():
            say(question)
            rows, seconds = _timed(partial(_rows, store, query))
            answered.append(Answered(question, rows, seconds))
        say("Opening the store in a second process")
        sight = neighbour.see(folder / "store", "commits", "author")  # while they are held here
    return Tour(
        folder,
        paths,
        data_seconds,
        loaded,
        words,
        paths.text.stat().st_size,
        words_seconds,
        degrees,
        degrees_seconds,
        answered,
        sight,
        time.perf_counter() - begun,
    )


def _rows(store: eau2.Store, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.sql(query).to_arrow().to_pylist()
    return rows


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun
