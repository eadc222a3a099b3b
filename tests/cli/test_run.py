"""`eau2 run`: programs in files."""

import os
import subprocess
import sys

import pytest
from tests.until import SECONDS_MAX

import eau2 as library

HELLO = """
from helper import greeting
import eau2

class Hello(eau2.Application):
    name: str = "you"
    times: int = 1

    def run(self):
        self.store.put(f"was-here-{self.this_node}", b"")
        for _ in range(self.times):
            print(greeting, self.name)
        return {"node": self.this_node, "bytes": b"x"}

if __name__ == "__main__":
    raise SystemExit("this is for python hello.py")
"""


@pytest.fixture
def hello(tmp_path):
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "hello.py").write_text(HELLO)
    (tmp_path / "programs" / "helper.py").write_text("greeting = 'hello'\n")
    return "programs/hello.py"


@pytest.fixture(autouse=True)
def imports():
    """What a program's file brings along is forgotten, and so is its folder."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("eau2_program_", "helper")):
            del sys.modules[name]


def test_a_program_runs_on_a_store_of_its_own_which_is_removed(eau2, hello, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert eau2("run", hello).text == "hello you\n"
    text = eau2("run", f"{hello}:Hello", "--nodes", "3", "--param", "name=all", "-p", "times=2").text
    assert sorted(text.splitlines()) == sorted([f"node-{node} | hello all" for node in range(3)] * 2)
    assert not list((tmp_path / "temporary").iterdir())
    assert not (tmp_path / "eau2-data").exists()


def test_a_program_runs_on_the_store_that_is_named(eau2, hello, tmp_path, monkeypatch):
    assert eau2("run", hello, "--store", "mine").code == 0
    with library.open(tmp_path / "mine") as store:
        assert store.keys() == ["was-here-0"]
    with library.open(tmp_path / "three", nodes=3) as store:
        assert store.keys() == []
    monkeypatch.setenv("EAU2_STORE", "three")
    assert eau2("run", hello).code == 0
    with library.open(tmp_path / "three") as store:
        assert store.keys() == [f"was-here-{node}" for node in range(3)]


def test_json_has_what_was_printed_and_returned(eau2, hello):
    document = eau2("run", hello, "--nodes", "2", "--json").json
    assert document.pop("seconds") > 0
    printed = document.pop("printed")
    assert sorted(printed, key=lambda line: line["node"]) == [
        {"node": f"node-{node}", "line": "hello you"} for node in (0, 1)
    ]
    assert document == {
        "program": "Hello",
        "nodes": ["node-0", "node-1"],
        "results": [{"node": node, "bytes": "eA=="} for node in (0, 1)],
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--param", "tims=3"], "did you mean 'times'?"),
        (["--param", "times=x"], "Hello.times is int, not 'x'"),
        (["--param", "times"], "--param takes NAME=VALUE, not 'times'"),
        (["--param", "times=1", "--param", "times=2"], "--param gives 'times' twice"),
        (["--nodes", "0"], "--nodes"),
    ],
)
def test_what_does_not_fit_is_wrong_usage(eau2, hello, arguments, said):
    ran = eau2("run", hello, *arguments)
    assert ran.code == 2
    assert said in ran.error


FILES = {
    "two.py": "import eau2\nclass A(eau2.Application):\n  def run(self): print('a')\nclass B(A): pass\n",
    "none.py": "from eau2 import Application\nclass Abstract(Application): pass\n",
    "odd:name.py": "import eau2\nclass A(eau2.Application):\n  def run(self): print('odd')\n",
    "json.py": "import eau2, json\nclass A(eau2.Application):\n  def run(self): print(json.dumps([1]))\n",
    "broken.py": "x = 1\nclass A(:\n",
    "raising.py": "def f():\n    return 1 / 0\n\nf()\n",
    "leaving.py": "import sys\nsys.exit(0)\n",
    "failing.py": "import eau2\nclass A(eau2.Application):\n def run(self):\n  if self.this_node:\n   int('x\\ny')\n",
}


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("two.py", 2, "two.py has A and B\nhint: name one: two.py:A"),
        ("two.py:B", 0, "a"),
        ("two.py:C", 2, "two.py has no eau2.Application 'C'\nhint: it has A, B"),
        ("two.py:eau2", 2, "no eau2.Application 'eau2'"),
        ("none.py", 2, "none.py has no eau2.Application"),
        ("none.py:Abstract", 2, "Abstract is no whole program"),
        ("odd:name.py", 0, "odd"),
        ("odd:name.py:A", 0, "odd"),
        ("json.py", 0, "[1]"),
        ("absent.py", 3, "cannot read absent.py: No such file"),
        (".", 3, "cannot read .: Is a directory"),
        ("broken.py", 3, "broken.py, line 2: invalid syntax"),
        ("raising.py", 3, "raising.py, line 2: ZeroDivisionError: division by zero"),
        ("leaving.py", 3, "leaving.py, line 2: SystemExit: 0"),
        ("failing.py", 0, ""),
    ],
)
def test_the_class_may_be_left_out_when_there_is_one_and_a_broken_file_is_said_in_a_sentence(
    eau2, tmp_path, program, code, said
):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    ran = eau2("run", program)
    assert ran.code == code
    assert said in ran.text + ran.error


def test_a_failure_is_one_sentence_with_the_node_and_the_line(eau2, tmp_path):
    (tmp_path / "failing.py").write_text(FILES["failing.py"])
    ran = eau2("run", "failing.py", "--nodes", "2")
    assert ran.code == 3
    said = "invalid literal for int() with base 10: 'x\\ny'"
    assert ran.error == f"error: A failed on node-1, line 5 of failing.py: ValueError: {said}\n"


@pytest.mark.slow
def test_functions_of_the_file_run_in_other_processes_too(eau2, tmp_path):
    (tmp_path / "mapping.py").write_text("""
import eau2

def double(row):
    return row["n"] * 2

class Mapping(eau2.Application):
    def run(self):
        self.store.put("numbers", {"n": [1, 2, 3]})
        print(self.store.frame("numbers").map_rows(double, workers="processes"))
""")
    assert eau2("run", "mapping.py").text == "[2, 4, 6]\n"


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_reader_that_has_seen_enough_is_no_failure(tmp_path, nodes):
    (tmp_path / "talk.py").write_text("""
import eau2

class Talk(eau2.Application):
    def run(self):
        while True:
            print("more and more")
""")
    command = [sys.executable, "-m", "eau2.cli", "run", "talk.py", "--nodes", str(nodes)]
    environment = {name: value for name, value in os.environ.items() if name != "EAU2_STORE"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert b"more and more" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(SECONDS_MAX) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
