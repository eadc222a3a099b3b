"""A GitHub-like data set, always the same for the same arguments: users, projects and commits as SoR, and a text.

Users live in neighbourhoods along a line. A project has a home there and is popular by a power law; who commits to
it is some way from its home, mostly near and now and then very far, and in every neighbourhood a few write most. So
what is reached from one user grows over several degrees before it is everything.

The first commits were made while there were two users and two projects: ids 0 and 1 only, which look like BOOL. A
reader that believed them would lose the rest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eau2.errors import InvalidOption

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

LINUS = 4967
EARLY_COMMITS = 600  # with ids 0 and 1: more than the 500 lines a schema is inferred from
NEIGHBOURS = 48  # users in a neighbourhood
_POPULARITY = 0.6  # a project is as popular as its rank to the power of minus this
_NEARNESS = 2.0  # how soon authors become rare with the distance from the project's home
_FORMAT = 1  # of the data: another number makes them anew
_VOCABULARY = 40_000
_WORDS_A_LINE = 11
_SYLLABLES = (
    "ba be bi bo bu da de di do du fa fe fi fo ga ge gi go ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu "
    "pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi za ze zo"
)
_THINGS = (
    "api app auth beam blog bot box cache cli cloud core cron css data db demo dev docs dot edge flow font forge game "
    "git graph grid hook hub ide io json kernel kit lab lang lens lib link lint log loop mail map mesh mind mock net "
    "node note os page parse path pipe plot port proxy query queue rail react relay repo rest route rpc rust sdk shell "
    "site sort spark spec sql stack store stream sync table task term test theme tile time tool tree type ui vault "
    "view vim web wiki wire yaml zip"
)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the data are."""

    users: Path  # (uid, login)
    projects: Path  # (pid, owner/name)
    commits: Path  # (pid, author uid, committer uid)
    text: Path
    made: bool = True  # now; False when they were there already


@dataclass(frozen=True, slots=True)
class _Size:
    seed: int
    users: int
    projects: int
    commits: int
    text_bytes: int
    format: int = _FORMAT


def make(
    folder: str | os.PathLike[str],
    *,
    seed: int = 1991,
    users: int = 50_000,
    projects: int = 100_000,
    commits: int = 1_000_000,
    text_bytes: int = 20_000_000,
) -> Paths:
    """Make the data in `folder` unless they are there, complete and made with the same arguments. About 2 seconds.

    Raises InvalidOption when there are too few users for LINUS or too few commits for the early ones, or when the
    folder has files of these names that this function has not made.
    """
    size = _Size(seed, users, projects, commits, text_bytes)
    if users <= LINUS or projects < 2 or commits < EARLY_COMMITS:
        raise InvalidOption(
            f"the data have over {LINUS:,} users, 2 projects and {EARLY_COMMITS} commits or more, not {size}"
        )
    root = Path(folder)
    files = (root / "users.sor", root / "projects.sor", root / "commits.sor", root / "words.txt")
    marker = root / "made-by-eau2-demo.json"  # with the arguments and the sizes; without sizes, it was interrupted
    known = _known(marker)
    sizes = [path.stat().st_size if path.exists() else -1 for path in files]
    if known == {**asdict(size), "bytes": sizes}:
        return Paths(*files, False)
    if known is None and (there := [path.name for path in files if path.exists()]):
        raise InvalidOption(f"{root} has a {there[0]} that is not the demo's", hint="give another folder")
    root.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(asdict(size)))
    for path, lines in zip(files, (_users, _projects, _commits, _text), strict=True):
        path.write_bytes(_bytes_of(lines(size)))
    marker.write_text(json.dumps({**asdict(size), "bytes": [path.stat().st_size for path in files]}))
    return Paths(*files)


def _known(marker: Path) -> object:
    """Return what the marker says, or None when there is none."""
    try:
        return json.loads(marker.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}  # ours, but cut short


# --- who is where


def _user_at(size: _Size) -> Ids:
    """Return the user at each position of the line. LINUS is an active one of his neighbourhood."""
    at = np.random.default_rng([size.seed, 1]).permutation(size.users)
    linus, second = int(np.flatnonzero(at == LINUS)[0]), NEIGHBOURS * (size.users // NEIGHBOURS // 3) + 1
    at[[linus, second]] = at[[second, linus]]
    return at


def _home_of_project(size: _Size) -> Ids:
    """Return the position of each project's owner."""
    return np.random.default_rng([size.seed, 2]).integers(0, size.users, size.projects)


def _rows_of_commits(size: _Size) -> tuple[Ids, Ids, Ids]:
    """Return project, author and committer of each commit."""
    random = np.random.default_rng([size.seed, 3])
    popularity = np.cumsum(np.arange(1, size.projects + 1) ** -_POPULARITY)
    rank = np.searchsorted(popularity, random.random(size.commits) * popularity[-1], side="right")
    project = random.permutation(size.projects)[np.minimum(rank, size.projects - 1)]

    home = _home_of_project(size)[project]
    away = np.minimum(random.pareto(_NEARNESS, size.commits), size.users).astype(np.int64)
    away *= random.choice(np.array([-1, 1]), size.commits)
    neighbour = (NEIGHBOURS * random.random(size.commits) ** 2).astype(np.int64)
    user_at = _user_at(size)
    author = user_at[((home // NEIGHBOURS + away) * NEIGHBOURS + neighbour) % size.users]
    committer = np.where(random.random(size.commits) < 0.85, author, user_at[home])

    for ids in (project, author, committer):
        ids[:EARLY_COMMITS] = random.integers(0, 2, EARLY_COMMITS)
    return project, author, committer


# --- as text


def _users(size: _Size) -> pa.Array:
    return _joined("<", _digits(np.arange(size.users)), '><"', _logins(size), '">\n')


def _projects(size: _Size) -> pa.Array:
    random = np.random.default_rng([size.seed, 4])
    things = pa.array(_THINGS.split())
    owners = _logins(size).take(pa.array(_user_at(size)[_home_of_project(size)]))
    first, second = (things.take(pa.array(random.integers(0, len(things), size.projects))) for _ in range(2))
    return _joined("<", _digits(np.arange(size.projects)), '><"', owners, "/", first, "-", second, '">\n')


def _commits(size: _Size) -> pa.Array:
    project, author, committer = map(_digits, _rows_of_commits(size))
    return _joined("<", project, "><", author, "><", committer, ">\n")


def _text(size: _Size) -> pa.Array:
    """Return lines of words; the n-th most frequent word is about 1/n as frequent as the first."""
    random = np.random.default_rng([size.seed, 5])
    vocabulary = _words(np.arange(_VOCABULARY))
    weights = 1 / np.arange(1, _VOCABULARY + 1)
    mean_bytes = 1 + float(np.average(pc.binary_length(vocabulary), weights=weights))
    count = round(size.text_bytes / mean_bytes / _WORDS_A_LINE) * _WORDS_A_LINE
    total = np.cumsum(weights)
    word = np.minimum(np.searchsorted(total, random.random(count) * total[-1], side="right"), _VOCABULARY - 1)
    word[_WORDS_A_LINE - 1 :: _WORDS_A_LINE] += _VOCABULARY  # the last of a line
    return pa.concat_arrays([_joined(vocabulary, end) for end in " \n"]).take(pa.array(word))


def _logins(size: _Size) -> pa.Array:
    names = _words(np.random.default_rng([size.seed, 6]).permutation(size.users)).to_pylist()
    names[LINUS] = "torvalds"
    return pa.array(names)


def _words(numbers: Ids) -> pa.Array:
    """Return a different pronounceable word for each number; small numbers have short ones."""
    syllables, base = pa.array(_SYLLABLES.split()), len(_SYLLABLES.split())
    words, start, length = None, 0, 1
    while words is None or (numbers >= start).any():
        digits = [(numbers - start) // base**place % base for place in reversed(range(length))]
        longer = _joined(*(syllables.take(pa.array(digit)) for digit in digits))
        words = longer if words is None else pc.if_else(pa.array(numbers < start), words, longer)
        start, length = start + base**length, length + 1
    return words


def _joined(*parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _digits(numbers: Ids) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _bytes_of(lines: pa.Array) -> memoryview:
    """Return the text of `lines` on end."""
    _, offsets, data = lines.buffers()
    end = int(np.frombuffer(offsets, np.int32)[len(lines)])
    return memoryview(data)[:end]
