"""The four demos: the same answer on any number of nodes, in any order of start, every time."""

import ast
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.remote.clusters import Cluster

import eau2
from eau2.demo import data
from eau2.ingest.writer import FrameWriter
from eau2.programs.finding import program_in
from eau2.programs.running import Run

pytestmark = pytest.mark.slow  # on up to eight nodes, again and again

DEMOS = Path(__file__).parents[2] / "demos"
SHARED = Path(__file__).parents[3] / "shared" / "data"
REFERENCE = SHARED.parent / "bench" / "ref_linus.py"
NODES = (1, 2, 3, 4, 8)
RUNS = 10
MANY_RUNS = pytest.param(100, marks=pytest.mark.long)
PLACES = [f"{DEMOS / name}.py" for name in ("trivial", "demo", "wordcount", "linus")]
Trivial, Demo, WordCount, Linus = map(program_in, PLACES)
del sys.path[:4]  # the demos' folder: `import linus` shall find what it always did

TEXT = (
    b"the cat\tand the\r\ndog\vThe\x0ccat \xff\xfe caf\xc3\xa9 caf\xc3\xa9\xc2\xa0x a\xc2\x85b "
    + b"more words " * 8_000
)


@pytest.fixture
def small_chunks(monkeypatch):
    """Frames are cut after 8 kB, so that all nodes have some of each; texts are read a little at a time."""
    monkeypatch.setitem(FrameWriter.__init__.__kwdefaults__, "chunk_bytes", 8192)
    monkeypatch.setattr(sys.modules[WordCount.__module__], "BLOCK_BYTES", 5000)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Small data for Linus and WordCount, with ids that do not exist."""
    folder = tmp_path_factory.mktemp("data")
    made = data.make(folder, users=5_000, projects=600, commits=3_000, text_bytes=0)
    with made.commits.open("a") as file:
        file.write("".join(f"<{project}><{user}><0>\n" for project, user in [(600, 1), (-1, 1), (1, 5_000), (1, -7)]))
    (folder / "text").write_bytes(TEXT)
    network = {name: getattr(made, name) for name in ("users", "projects", "commits")}
    return {
        Trivial: {"numbers": 10_000},
        Demo: {"numbers": 10_000},
        WordCount: {"file": folder / "text"},
        Linus: network,
    }


def answer(program, store, given, order=None, run=None):
    """What a run of `program`, or of `run`, its subclass, answers, as it is on one node."""
    few = {"degrees": 3} if program is Linus else {}
    found = Run(run or program, store, given | few).results(order=order)
    if program is Demo:  # the parts are spread over the nodes
        return [part for index in range(3) for part in found[index % len(found)][index // len(found) :][:1]]
    assert program is not Linus or all(one == found[0] for one in found)  # all nodes know the answer
    return found[0]


@pytest.fixture
def expected(files):
    network = eau2.linus(**files[Linus], degrees=3).to_dict()
    linus = {name: network[name] for name in ("commits", "ignored_commits", "degrees")}
    assert linus["ignored_commits"] == 4
    assert linus["degrees"][0]["users"] < linus["degrees"][2]["users"] < 5_000
    words = eau2.wordcount(files[WordCount]["file"])
    assert words.distinct == 11
    return {Trivial: 0, Demo: [None, None, "SUCCESS"], WordCount: words.distinct, Linus: linus}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("program", [Trivial, Demo, WordCount, Linus], ids=lambda program: program.__name__)
def test_a_demo_gives_the_same_answer_on_any_number_of_nodes(program, nodes, files, expected, tmp_path):
    with eau2.open(tmp_path / "store", nodes=nodes) as store:
        assert answer(program, store, files[program]) == expected[program]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("runs", [RUNS, MANY_RUNS])
@pytest.mark.parametrize("program", [Trivial, Demo, WordCount, Linus], ids=lambda program: program.__name__)
def test_a_demo_gives_the_same_answer_each_time_in_any_order_of_start(program, runs, files, expected, tmp_path):
    for nodes in NODES:
        with eau2.open(tmp_path / f"of-{nodes}", nodes=nodes) as store:
            for seed in range(runs // len(NODES)):
                order = shuffled(nodes, random.Random(seed))
                assert answer(program, store, files[program], order) == expected[program], (nodes, seed)


@pytest.mark.long  # make test has them on Ray: tests/remote/test_ray_work.py
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("program", [Trivial, Demo, WordCount, Linus], ids=lambda program: program.__name__)
def test_a_demo_gives_the_same_answer_on_nodes_that_have_processes(program, nodes, files, expected, tmp_path):
    with Cluster(tmp_path, [f"node-{index}" for index in range(nodes)]) as cluster, cluster.opener()() as store:
        for _ in range(2):
            assert answer(program, store, files[program], run=in_small_chunks(program)) == expected[program]
        assert store.check().faults == ()


def in_small_chunks(program):
    """The program, which cuts its frames after 8 kB also in another process."""

    class Small(program):
        def run(self):
            FrameWriter.__init__.__kwdefaults__["chunk_bytes"] = 8192
            return program.run(self)

    return Small


def shuffled(nodes, chance):
    """Yield the nodes in any order, some of them late."""
    for index in chance.sample(range(nodes), nodes):
        time.sleep(chance.choice([0, 0, 0.001, 0.003]))
        yield index


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_demo_runs_on_data_of_its_own_and_leaves_what_it_should(nodes, tmp_path, capsys):
    with eau2.open(tmp_path / "store", nodes=nodes) as store:
        for program in (Trivial, Demo, WordCount):
            eau2.run(program, on=store)
        lines = [line.split(" | ")[-1] for line in capsys.readouterr().out.splitlines()]
        assert lines == ["element 1 is 1, and 0 is left of the sum", "SUCCESS", "Different words: 49"]
        assert store.frame("triv").rows == 1_000_000
        assert store.frame("main").rows == 100_000
        assert float(store.get("ck")) == float(store.get("verif")) == 4_999_950_000
        assert store.keys("wc-map-") == [f"wc-map-{node}" for node in range(nodes)]
        assert sum(store.frame("wc").to_arrow()["count"].to_pylist()) == 100_000


def test_linus_on_data_of_its_own_prints_each_degree(tmp_path, capsys):
    with eau2.open(tmp_path / "store", nodes=2) as store:
        found = eau2.run(Linus, on=store, degrees=5)[0]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node-0 | 6000 users, 3000 projects, 20000 commits, 0 of them with unknown ids and ignored"
    assert [line.split(":")[0] for line in lines[1:]] == [f"node-0 | degree {degree}" for degree in range(1, 6)]
    assert found["degrees"][0]["new_users"] == found["degrees"][0]["users"] > 1


@pytest.mark.usefixtures("small_chunks")
def test_the_words_are_those_of_isspace_and_are_counted_exactly(files, tmp_path):
    with eau2.open(tmp_path / "store", nodes=3) as store:
        eau2.run(WordCount, on=store, **files[WordCount])
        counts = dict(zip(*store.frame("wc").to_arrow().to_pydict().values(), strict=True))
    assert counts == dict(eau2.wordcount(files[WordCount]["file"]).top(100))
    assert (counts["the"], counts["The"], counts["caf\u00e9\u00a0x"], counts["a\u0085b"], counts["\\xff\\xfe"]) == (
        (2, 1, 1, 1, 1)
    )


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("text", [b"", b" \n\t ", b"x", b"x" * 5_000, b"x " * 999 + b"y"])
def test_texts_without_words_and_of_one_long_word_are_counted(tmp_path, text):
    (tmp_path / "text").write_bytes(text)
    with eau2.open(tmp_path / "store", nodes=2) as store:
        assert eau2.run(WordCount, on=store, file=tmp_path / "text")[0] == len(set(text.split()))


def test_a_second_run_on_other_data_takes_nothing_of_the_first(files, tmp_path):
    (tmp_path / "text").write_bytes(b"one two")
    with eau2.open(tmp_path / "store", nodes=3) as store:
        for numbers in (1_000, 10):
            assert eau2.run(Demo, on=store, numbers=numbers) == [[None], [None], ["SUCCESS"]]
            assert float(store.get("verif")) == sum(range(numbers))
        assert eau2.run(WordCount, on=store, **files[WordCount])[0] == 11
        assert eau2.run(WordCount, on=store, file=tmp_path / "text")[0] == 2
        full = eau2.run(Linus, on=store, **files[Linus])[0]
        eau2.run(Linus, on=store, **files[Linus], linus=1, degrees=1)
        assert eau2.run(Linus, on=store, **files[Linus])[0] == full


def test_a_user_that_is_not_there_reaches_nothing(files, tmp_path):
    with eau2.open(tmp_path / "store", nodes=2) as store:
        for user in (-1, 5_000):
            found = eau2.run(Linus, on=store, **files[Linus], linus=user, degrees=1)[0]
            assert found["degrees"] == [
                dict.fromkeys(("new_projects", "projects", "new_users", "users"), 0) | {"degree": 1}
            ]


def test_the_bits_of_linus_are_a_set():
    module = sys.modules[Linus.__module__]
    chance = np.random.default_rng(1)
    for size in (1, 8, 9, 1000):
        bits, known = module.Bits(size), np.zeros(size, bool)
        for _ in range(4):
            ids = chance.integers(0, size, 20).astype(np.int32)  # some more than once
            bits.add(ids)
            known[ids] = True
            assert bits.has(np.arange(size)).tolist() == known.tolist()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: Path(place).stem)
def test_a_demo_is_under_100_lines(place):
    assert Path(place).read_text().count("\n") < 100


@pytest.mark.skipif(not SHARED.exists(), reason="the courses' data are not beside the project")
@pytest.mark.parametrize(
    ("folder", "degrees"),
    [("linus_dtx_small", [(1, 2), (2, 3), (3, 4)]), ("linus_tiny_mk", [(3, 4), (5, 6), (6, 7), (6, 7)])],
)
@pytest.mark.parametrize("nodes", [1, 3, 8])
def test_linus_gives_what_the_specification_says(folder, degrees, nodes, tmp_path):
    paths = {kind: SHARED / folder / f"{kind}.ltgt" for kind in ("users", "projects", "commits")}
    with eau2.open(tmp_path / "store", nodes=nodes) as store:
        found = eau2.run(Linus, on=store, **paths, linus=0, degrees=len(degrees))[0]
    assert [(degree["projects"], degree["users"]) for degree in found["degrees"]] == degrees


@pytest.mark.skipif(not REFERENCE.exists(), reason="the slow reference is not beside the project")
@pytest.mark.parametrize("folder", ["linus_dtx_small", "linus_tiny_aaron", "linus_tiny_grahamwren", "linus_tiny_mk"])
def test_linus_agrees_with_the_slow_reference(folder, tmp_path):
    paths = {kind: SHARED / folder / f"{kind}.ltgt" for kind in ("users", "projects", "commits")}
    for user in (0, 3):
        command = [sys.executable, REFERENCE, *paths.values(), str(user), "4"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        strict = next(line for line in lines if line.startswith("strict"))
        with eau2.open(tmp_path / f"store-{user}", nodes=3) as store:
            found = eau2.run(Linus, on=store, **paths, linus=user)[0]
        kinds = ("new_projects", "projects", "new_users", "users")
        degrees = [tuple(degree[kind] for kind in kinds) for degree in found["degrees"]]
        assert degrees == ast.literal_eval(strict.split("(newP,P,newU,U)")[1].strip())
