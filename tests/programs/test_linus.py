"""Degrees of separation, against a slow reference written from the rules."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import InvalidOption, InvalidValue, LoadError
from eau2.opening import open as open_store
from eau2.programs import linus as module
from eau2.programs.linus import linus

SHARED = Path(__file__).parents[3] / "shared" / "data"


def slowly(users: int, projects: int, commits: list, user: int, degrees: int) -> tuple[list, int]:
    """(new projects, projects, new users, users) a degree, and the ignored commits; a commit at a time, with sets."""
    kept = [
        (project, author)
        for project, author in commits
        if project is not None and author is not None and 0 <= project < projects and 0 <= author < users
    ]
    tagged_projects, tagged_users = set(), set()
    new_users = {user} if 0 <= user < users else set()
    rows = []
    for _ in range(degrees):
        new_projects = {project for project, author in kept if author in new_users} - tagged_projects
        tagged_projects |= new_projects
        new_users = {author for project, author in kept if project in new_projects} - tagged_users
        tagged_users |= new_users
        rows.append((len(new_projects), len(tagged_projects), len(new_users), len(tagged_users)))
    return rows, len(commits) - len(kept)


def rows_of(found) -> list:
    return [(row.new_projects, row.projects, row.new_users, row.users) for row in found.degrees]


def write(folder: Path, users: int, projects: int, commits: list) -> list[Path]:
    """The three SoR files. The committer is a user nobody else is connected to: it must not be read."""
    texts = {
        "users.sor": "".join(f'<{user}><"user {user}">\n' for user in range(users)),
        "projects.sor": "".join(f'<{project}><"owner/project {project}">\n' for project in range(projects)),
        "commits.sor": "".join(f"<{'' if p is None else p}><{'' if a is None else a}><0>\n" for p, a in commits),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


IDS = st.none() | st.integers(-2, 14) | st.sampled_from([-(2**63), 2**63 - 1, 2**31, 2**32 + 1])
GRAPHS = st.fixed_dictionaries(
    {
        "users": st.integers(0, 12),
        "projects": st.integers(0, 12),
        "commits": st.lists(st.tuples(IDS, IDS), max_size=40),
        "user": st.integers(-1, 12),
        "degrees": st.integers(1, 6),
    }
)


def agree(found, graph) -> None:
    wanted, ignored = slowly(**graph)
    assert rows_of(found) == wanted
    assert [row.degree for row in found.degrees] == list(range(1, graph["degrees"] + 1))
    assert (found.commits, found.ignored_commits) == (len(graph["commits"]), ignored)
    assert (found.users, found.projects) == (graph["users"], graph["projects"])
    assert bool(found.warning) == (not 0 <= graph["user"] < graph["users"])


@given(graph=GRAPHS)
def test_any_graph_in_files_gives_what_the_slow_reference_gives(graph, folder):
    files = write(folder, graph["users"], graph["projects"], graph["commits"])
    agree(linus(*files, user=graph["user"], degrees=graph["degrees"]), graph)


@given(graph=GRAPHS, threads=st.integers(1, 3), piece=st.sampled_from([8, 16, 1 << 20]))
def test_any_graph_in_frames_gives_what_the_slow_reference_gives(graph, threads, piece, store):
    store.put("users", {"uid": list(range(graph["users"]))}, schema=pa.schema({"uid": pa.int64()}))
    store.put("projects", {"pid": list(range(graph["projects"]))}, schema=pa.schema({"pid": pa.int64()}))
    columns = [[commit[side] for commit in graph["commits"]] for side in (0, 1)]
    store.put("commits", {"pid": pa.array(columns[0], pa.int64()), "author": pa.array(columns[1], pa.int64())})
    frames = [store.frame(name) for name in ("users", "projects", "commits")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_A_PIECE", piece)
        agree(linus(*frames, user=graph["user"], degrees=graph["degrees"], threads=threads), graph)


@given(graph=GRAPHS)
def test_ids_that_need_more_than_32_bits_are_walked_the_same_way(graph, store):
    """Two billion users do not fit a test, so the width is chosen as if there were."""
    pieces = [pa.array([commit[side] for commit in graph["commits"]], pa.int64()) for side in (0, 1)]
    projects, authors, rows = module.valid_links(*pieces, graph["projects"], graph["users"])
    wide = module._Links([(projects.cast(pa.int64()), authors.cast(pa.int64()))], rows)
    found = module._walk(wide, graph["user"], graph["users"], graph["projects"], graph["degrees"], 2)
    assert [(row.new_projects, row.projects, row.new_users, row.users) for row in found] == slowly(**graph)[0]


def test_a_chain_is_walked_one_link_a_degree(folder):
    commits = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]
    found = linus(*write(folder, 5, 4, commits), user=0, degrees=5)
    assert rows_of(found) == [(1, 1, 2, 2), (1, 2, 1, 3), (1, 3, 1, 4), (0, 3, 0, 4), (0, 3, 0, 4)]
    assert found.to_dict() == {
        "users": 5,
        "projects": 4,
        "commits": 6,
        "ignored_commits": 0,
        "degrees": [
            {"degree": 1, "new_projects": 1, "projects": 1, "new_users": 2, "users": 2},
            {"degree": 2, "new_projects": 1, "projects": 2, "new_users": 1, "users": 3},
            {"degree": 3, "new_projects": 1, "projects": 3, "new_users": 1, "users": 4},
            {"degree": 4, "new_projects": 0, "projects": 3, "new_users": 0, "users": 4},
            {"degree": 5, "new_projects": 0, "projects": 3, "new_users": 0, "users": 4},
        ],
    }


def test_committing_is_not_authoring(folder):
    users, projects, commits = write(folder, 3, 2, [])
    commits.write_text("<0><1><0>\n<1><2><0>\n")  # user 0 committed both, and is the author of none
    assert rows_of(linus(users, projects, commits, user=0, degrees=2)) == [(0, 0, 0, 0), (0, 0, 0, 0)]


def test_ids_0_and_1_first_do_not_lose_what_follows(folder):
    early = [(line % 2, line // 2 % 2) for line in range(600)]
    late = [(2, 1), (2, 7), (9, 7), (9, 8), (3, 5)]
    found = linus(*write(folder, 9, 10, early + late), user=0, degrees=3)
    assert rows_of(found) == slowly(9, 10, early + late, 0, 3)[0] == [(2, 2, 2, 2), (1, 3, 1, 3), (1, 4, 1, 4)]
    assert (found.commits, found.ignored_commits) == (605, 0)


def test_commits_whose_ids_are_all_0_or_1_are_read_from_a_bool_column(folder):
    assert rows_of(linus(*write(folder, 2, 2, [(0, 0), (0, 1), (1, 1)]), user=0, degrees=2)) == [
        (1, 1, 2, 2),
        (1, 2, 0, 2),
    ]


def test_each_commit_with_an_unknown_id_is_ignored_once(folder):
    commits = [(0, 0), (0, 3), (2, 0), (7, 7), (None, 0), (0, None), (-1, 0), (0, 1)]
    found = linus(*write(folder, 3, 2, commits), user=0, degrees=1)
    assert (rows_of(found), found.commits, found.ignored_commits) == ([(1, 1, 2, 2)], 8, 6)


def test_a_user_who_is_none_of_the_users_reaches_nothing_and_is_warned_about(folder):
    found = linus(*write(folder, 3, 2, [(0, 0), (1, 2)]), degrees=2)
    assert rows_of(found) == [(0, 0, 0, 0), (0, 0, 0, 0)]
    assert "no user 4967 among the 3 users" in found.warning
    assert "warning" not in found.to_dict()


@pytest.mark.parametrize("degrees", [0, -1, 255])
def test_degrees_outside_their_range_are_refused(folder, degrees):
    with pytest.raises(InvalidOption, match=f"1 to 254, not {degrees}"):
        linus(*write(folder, 1, 1, []), degrees=degrees)


def test_254_degrees_are_walked(folder):
    chain = [(link + step, link + 1) for link in range(253) for step in (0, 1)]
    found = linus(*write(folder, 300, 300, [(0, 0), *chain]), user=0, degrees=254)
    assert rows_of(found) == slowly(300, 300, [(0, 0), *chain], 0, 254)[0]


def test_commits_without_two_columns_of_ids_are_refused(folder, store):
    users, projects, commits = write(folder, 2, 2, [])
    commits.write_text('<0><"torvalds">\n')
    with pytest.raises(InvalidValue, match="c0 bool, c1 string"):
        linus(users, projects, commits)
    store.put("one", {"pid": [1]})
    with pytest.raises(InvalidValue, match="pid int64"):
        linus(users, projects, store.frame("one"))


def test_a_missing_file_is_named(folder):
    users, projects, _ = write(folder, 2, 2, [])
    with pytest.raises(LoadError, match=r"nowhere\.sor"):
        linus(users, projects, folder / "nowhere.sor")


@pytest.mark.skipif(not SHARED.exists(), reason="the sample graphs are not beside the repository")
@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("linus_dtx_small", [(1, 2), (2, 3), (3, 4)]),
        ("linus_tiny_mk", [(3, 4), (5, 6), (6, 7), (6, 7)]),
    ],
)
def test_the_sample_graphs_have_the_known_answers(name, reached):
    files = [SHARED / name / f"{kind}.ltgt" for kind in ("users", "projects", "commits")]
    found = linus(*files, user=0, degrees=len(reached))
    assert [(row.projects, row.users) for row in found.degrees] == reached
