"""The demo's data are the same every time, look like SoR, and are not made twice."""

import hashlib

import pytest

import eau2
from eau2.demo.data import EARLY_COMMITS, LINUS, make
from eau2.errors import InvalidOption

SMALL = {"users": 6000, "projects": 5000, "commits": 40_000, "text_bytes": 100_000}


def digest(paths) -> list[str]:
    files = (paths.users, paths.projects, paths.commits, paths.text)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_the_same_arguments_make_the_same_files_and_another_seed_others(tmp_path):
    one, two = make(tmp_path / "one", **SMALL), make(tmp_path / "two", **SMALL)
    other = make(tmp_path / "other", seed=7, **SMALL)
    assert digest(one) == digest(two)
    assert not set(digest(one)) & set(digest(other))


def test_what_is_there_is_not_made_again(tmp_path):
    first = make(tmp_path, **SMALL)
    before = first.commits.stat().st_mtime_ns
    second = make(tmp_path, **SMALL)
    assert (first.made, second.made, second.commits.stat().st_mtime_ns) == (True, False, before)


@pytest.mark.parametrize("damage", ["shorter", "gone", "no account", "other size"])
def test_what_is_not_complete_is_made_again(tmp_path, damage):
    paths = make(tmp_path, **SMALL)
    wanted = digest(paths)
    sizes = dict(SMALL)
    if damage == "shorter":
        paths.commits.write_bytes(paths.commits.read_bytes()[:-1])
    elif damage == "gone":
        paths.text.unlink()
    elif damage == "no account":
        (tmp_path / "made-by-eau2-demo.json").write_text('{"seed": 19')
    else:
        make(tmp_path, **{**SMALL, "commits": 50_000})
    again = make(tmp_path, **sizes)
    assert again.made
    assert digest(again) == wanted


def test_files_of_others_are_not_overwritten(tmp_path):
    (tmp_path / "commits.sor").write_text("<mine>")
    with pytest.raises(InvalidOption, match=r"has a commits\.sor that is not the demo's"):
        make(tmp_path, **SMALL)
    assert (tmp_path / "commits.sor").read_text() == "<mine>"
    assert [path.name for path in tmp_path.iterdir()] == ["commits.sor"]


@pytest.mark.parametrize("size", [{"users": LINUS}, {"projects": 1}, {"commits": EARLY_COMMITS - 1}])
def test_sizes_that_leave_nothing_to_show_are_refused(tmp_path, size):
    with pytest.raises(InvalidOption, match="4,967 users"):
        make(tmp_path, **{**SMALL, **size})


def test_every_line_is_a_row_and_every_id_is_known(tmp_path):
    paths = make(tmp_path / "data", **SMALL)
    with eau2.open(tmp_path / "store") as store:
        reports = {
            key: store.load(key, getattr(paths, key), progress=False) for key in ("users", "projects", "commits")
        }
        assert {key: (r.lines, r.rows, r.bad) for key, r in reports.items()} == {
            "users": (6000, 6000, 0),
            "projects": (5000, 5000, 0),
            "commits": (40_000, 40_000, 0),
        }
        assert [w.line for w in reports["commits"].widened] == [EARLY_COMMITS + 1] * 3
        users = store.frame("users").to_arrow()["c1"].to_pylist()
        assert len(set(users)) == 6000
        assert users[LINUS] == "torvalds"
        found = eau2.linus(*(store.frame(key) for key in reports), degrees=6)
    assert found.ignored_commits == 0
    reached = [row.users for row in found.degrees]
    assert 1 < reached[0] < reached[1] < reached[2]
    assert reached[0] < 0.1 * found.users


def test_frequent_words_of_the_text_follow_zipfs_law(tmp_path):
    paths = make(tmp_path, **{**SMALL, "text_bytes": 2_000_000})
    found = eau2.wordcount(paths.text)
    assert 0.98 < paths.text.stat().st_size / 2_000_000 < 1.02
    counts = [count for _, count in found.top(10)]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.1)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)
