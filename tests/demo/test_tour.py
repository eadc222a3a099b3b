"""The demo does what its screen says, on one screen."""

import io
import shutil
import subprocess
import sys

import pyarrow.compute as pc
import pytest
from rich.console import Console

import eau2
from eau2.demo import data, neighbour
from eau2.demo.page import show
from eau2.demo.tour import walk

SMALL = {"users": 6000, "projects": 5000, "commits": 40_000, "text_bytes": 100_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def tour(folder):
    said = []
    found = walk(folder, said.append, **SMALL)
    assert len(said) == len(set(said)) > 8
    return found


@pytest.mark.slow
def test_a_second_process_sees_the_frame_and_copies_nothing(tour, folder):
    with eau2.open(folder / "store") as store:
        commits = store.frame("commits").to_arrow()
    assert (tour.sight.rows, tour.sight.total) == (40_000, pc.sum(commits["author"]).as_py())
    if sys.platform == "linux":
        assert 0 < tour.sight.shared_bytes <= tour.sight.mapped_bytes <= commits.nbytes + (1 << 20)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages are shared")
def test_pages_that_nobody_else_holds_are_not_called_shared(tour, folder, tmp_path):
    shutil.copytree(folder / "store", tmp_path / "store")
    seen = neighbour.see(tmp_path / "store", "commits", "author")
    assert (seen.total, seen.shared_bytes) == (tour.sight.total, 0)
    assert seen.mapped_bytes > 0


def test_the_answers_are_those_of_the_data(tour):
    project, author, _ = data._rows_of_commits(data._Size(1991, *SMALL.values()))
    pairs = set(zip(project.tolist(), author.tolist(), strict=True))
    authors = {}
    for pid, _ in pairs:
        authors[pid] = authors.get(pid, 0) + 1
    most, people, _ = (answer.rows for answer in tour.answered)
    assert [row["authors"] for row in most] == sorted(authors.values(), reverse=True)[:3]
    assert people == [
        {
            "on_one": sum(count == 1 for count in authors.values()),
            "on_two_to_nine": sum(2 <= count <= 9 for count in authors.values()),
            "on_ten_or_more": sum(count > 9 for count in authors.values()),
        }
    ]


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_all_of_it_is_one_screen(tour, terminal):
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False, markup=False, emoji=False)
    show(console, tour)
    text = console.file.getvalue()
    assert ("\x1b[" in text) == terminal
    lines = text.splitlines()
    assert len(lines) <= 45
    assert terminal or max(map(len, lines)) <= 80 or str(tour.folder) in max(lines, key=len)
    for shown in ("40,000", "no row lost", "different", "torvalds", "shared with us", "eau2 sql", "import eau2"):
        assert shown in text


@pytest.mark.slow
def test_the_command_prints_it_and_what_it_says_to_type_next_works(folder):
    demo = [sys.executable, "-c", f"import sys; sys.argv[1:] = [{str(folder / 'fresh')!r}]; {_RUN}"]
    done = subprocess.run(demo, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, "\x1b" in done.stdout) == (0, False), done.stderr
    commands = [line.strip()[2:] for line in done.stdout.splitlines() if line.strip().startswith("$ ")]
    assert len(commands) == 5
    path = f'export PATH="{sys.prefix}/bin:$PATH"'
    script = "\n".join(["set -e", path, *commands])
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "torvalds" in answer.stdout
    python = [line.strip()[4:] for line in done.stdout.splitlines() if line.strip().startswith(">>> ")]
    typed = subprocess.run(
        [sys.executable, "-c", "\n".join(python)], capture_output=True, text=True, timeout=300, check=False
    )
    assert typed.returncode == 0, typed.stderr


_RUN = (
    "from eau2.demo import __main__ as demo, data, tour; whole = tour.walk; "
    f"demo.tour.walk = lambda folder, say: whole(folder, say, **{SMALL!r}); sys.exit(demo.main())"
)


@pytest.mark.slow
def test_a_folder_with_files_of_others_is_left_alone_in_one_sentence(tmp_path):
    (tmp_path / "users.sor").write_text("<mine>")
    command = [sys.executable, "-m", "eau2.demo", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3
    assert "not the demo's" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
