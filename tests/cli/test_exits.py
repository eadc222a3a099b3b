"""Exit codes, errors and interrupts: what scripts rely on."""

import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.until import SECONDS_MAX, until

import eau2 as library
from eau2 import errors
from eau2.cli.exits import EXIT_CODES, StoreAbsent, exit_code

pytestmark = pytest.mark.slow  # each starts processes

PROGRAM = [sys.executable, "-m", "eau2.cli"]
EXPECTED = {
    "KeyMissing": 1, "KeyExists": 1, "VersionConflict": 1, "WaitTimeout": 1,
    "InvalidKey": 2, "InvalidValue": 2, "InvalidOption": 2, "ValueTooLarge": 2, "WrongKind": 2,
    "QueryError": 2, "UnknownTable": 2, "UnknownColumn": 2,
}  # fmt: skip


def test_every_error_has_its_code():
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.Eau2Error):
            instance = error("it", found=1) if name == "VersionConflict" else error("it")
            assert exit_code(instance) == EXPECTED.get(name, 3), name
    assert exit_code(StoreAbsent("it")) == 1
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(OSError("it")) == exit_code(ZeroDivisionError()) == 3
    assert set(EXIT_CODES.values()) == {0, 1, 2, 3, 130}


READING = [
    ["get", "a"],
    ["delete", "a"],
    ["keys"],
    ["wait", "a", "--timeout", "0"],
    ["show", "a"],
    ["sql", "select 1"],
    ["wordcount", "a"],
    ["linus", "a", "b", "c"],
    ["check"],
]


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
@pytest.mark.parametrize("empty", [False, True], ids=["no directory", "an empty one"])
def test_a_command_that_reads_makes_no_store(eau2, tmp_path, command, empty):
    if empty:
        (tmp_path / "eau2-data").mkdir()
    ran = eau2(*command)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.error.startswith("error: ")
    assert [path.name for path in tmp_path.rglob("*")] == (["eau2-data"] if empty else [])


WRONG = [
    (2, ["nope"]),
    (2, []),
    (2, ["put"]),
    (2, ["put", "a", "b", "c"]),
    (2, ["put", "", "x"]),
    (2, ["put", "k" * 513, "x"]),
    (2, ["put", "a\nb", "x"]),
    (2, ["put", "a", "x", "--file", "trips.csv"]),
    (2, ["put", "a", "x", "--new", "--if-version", "1"]),
    (2, ["put", "a", "x", "--if-version", "0"]),
    (3, ["put", "a", "--file", "absent"]),
    (1, ["get", "tripz"]),
    (2, ["get", "trips", "-o", "out"]),
    (3, ["get", "bytes", "-o", "absent/out"]),
    (2, ["get", "a", "b"]),
    (2, ["delete"]),
    (2, ["keys", "--nope"]),
    (2, ["wait", "a", "--timeout", "-1"]),
    (2, ["wait", "a", "--timeout", "nan"]),
    (2, ["wait", "a", "--timeout", "soon"]),
    (3, ["load", "a", "absent.csv"]),
    (3, ["load", "a", "."]),
    (3, ["load", "a", "binary.csv", "--on-error", "fail"]),
    (3, ["load", "a", "cut.parquet"]),
    (2, ["load", "a", "trips.csv", "--format", "xls"]),
    (2, ["load", "a", "trips.csv", "--from", "9", "--to", "3"]),
    (2, ["load", "a", "trips.csv", "--from", "-1"]),
    (2, ["load", "a", "trips.csv", "--on-error", "ignore"]),
    (2, ["load", "a", "trips.csv", "--schema", "a:INT,b"]),
    (2, ["load", "a", "trips.csv", "--schema", "a:WORD"]),
    (2, ["load", "a", "trips.csv", "--schema", "a,,b"]),
    (2, ["load", "a", "trips.csv", "--no-header"]),
    (1, ["show", "absent"]),
    (2, ["show", "trips", "--rows", "-1"]),
    (2, ["sql", "selec"]),
    (2, ["sql", ""]),
    (2, ["sql", "select * from tripz"]),
    (2, ["sql", "select fair from trips"]),
    (2, ["sql", "select * from bytes"]),
    (2, ["sql", "select 1", "-o", "out.xyz"]),
    (2, ["sql", "select 1", "-o", "out.csv", "--format", "table"]),
    (2, ["sql", "select 1", "--format", "xml"]),
    (3, ["sql", "select 1", "-o", "absent/out.csv"]),
    (3, ["sql", "select 1", "-o", "/proc/out.csv"]),
    (3, ["--store", "/proc/store", "put", "a", "x"]),
    (3, ["sql", "select 1", "-o", ".", "--format", "csv"]),
    (1, ["wordcount", "absent"]),
    (3, ["wordcount", "."]),
    (2, ["wordcount", "trips"]),
    (2, ["wordcount", "trips.csv", "--top", "-1"]),
    (1, ["linus", "absent", "trips.csv", "trips.csv"]),
    (2, ["linus", "trips.csv", "trips.csv", "words.csv"]),
    (2, ["linus", "trips.csv", "trips.csv", "trips.csv", "--degrees", "0"]),
    (2, ["sor", "a.sor"]),
    (2, ["sor", "--print-col-type", "0"]),
    (2, ["sor", "a.sor", "--print-col-type", "9"]),
    (2, ["sor", "a.sor", "--print-col-type", "-1"]),
    (2, ["sor", "a.sor", "--print-col-idx", "0", "9"]),
    (2, ["sor", "a.sor", "--print-col-idx", "0"]),
    (2, ["sor", "a.sor", "--print-col-type", "0", "--is-missing-idx", "0", "0"]),
    (3, ["sor", "absent", "--print-col-type", "0"]),
    (2, ["--store", "", "keys"]),
    (2, ["put", "a", "x", "--store", ""]),
    (3, ["--store", "trips.csv", "keys"]),
    (3, ["--store", "other", "put", "a", "x"]),
    (3, ["--store", "trips.csv/deeper", "put", "a", "x"]),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with a store, some files and a directory that is no store. No test may change it."""
    path = tmp_path_factory.mktemp("world")
    (path / "trips.csv").write_text("id,fare\n1,2.5\n")
    (path / "binary.csv").write_bytes(bytes(range(256)) * 20)
    (path / "cut.parquet").write_bytes(b"PAR1 cut")
    (path / "words.csv").write_text("a,b\nx,y\n")
    (path / "a.sor").write_text("<0><1>\n")
    (path / "other").mkdir()
    (path / "other" / "file").touch()
    with library.open(path / "eau2-data") as store:
        store.put("trips", {"id": [1], "fare": [2.5]})
        store.put("bytes", b"x")
    return path


@pytest.mark.parametrize(
    ("code", "command"),
    [pytest.param(code, command, id=" ".join(command)[:40] or "no command") for code, command in WRONG],
)
def test_what_is_wrong_is_one_sentence_and_a_hint_and_changes_nothing(eau2, world, monkeypatch, code, command):
    monkeypatch.chdir(world)
    before = sorted(path.name for path in world.iterdir())
    ran = eau2(*command)
    assert (ran.code, ran.out) == (code, b""), ran.error
    lines = ran.error.splitlines()
    assert lines[0].startswith("error: ")
    assert not lines[0].startswith("error: unexpected ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), ran.error
    as_json = eau2("--json", *command)
    assert (as_json.code, as_json.out) == (code, b"")
    assert list(json.loads(as_json.error)) == ["error", "message", "hint"]
    assert sorted(path.name for path in world.iterdir()) == before
    with library.open(world / "eau2-data") as store:
        assert store.keys() == ["bytes", "trips"]


def test_a_missing_key_names_one_that_is_near(eau2, trips):
    assert "did you mean 'trips'?" in eau2("get", "tripz").error


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_directory_that_cannot_be_written_is_a_failure(eau2, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert eau2("--store", "closed/store", "put", "a", "x").code == 3


def test_check_is_0_when_all_is_well_and_1_when_a_chunk_was_damaged(eau2, trips, tmp_path):
    eau2("put", "bytes", "x")
    document = eau2("check", "--json").json
    assert list(document) == ["keys", "chunks", "bytes", "faults"]
    assert (document["keys"], document["chunks"], document["faults"]) == (2, 1, [])
    assert "all right" in eau2("check").text
    chunk = max(
        (path for path in tmp_path.glob("eau2-data/**/*") if is_chunk(path)), key=lambda path: path.stat().st_size
    )
    chunk.chmod(0o600)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    ran = eau2("check", "--json")
    assert ran.code == 1
    assert [(list(fault), fault["key"]) for fault in ran.json["faults"]] == [
        (["what", "key", "chunk", "file"], "trips")
    ]
    assert "1 fault" in eau2("check").text


def is_chunk(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:6] == b"ARROW1"


def test_version_has_all_parts(eau2):
    document = eau2("version", "--json").json
    assert list(document) == ["eau2", "python", "pyarrow", "datafusion", "apsw", "numpy", "xxhash", "loky"]
    assert eau2("version").text == f"eau2 {document['eau2']}\n"


def test_doctor_works_without_a_store_with_one_and_with_what_is_none(eau2, tmp_path):
    document = eau2("doctor", "--json").json
    assert list(document) == ["ok", "versions", "machine", "limits", "store", "findings"]
    assert document["store"]["state"].startswith("there is none")
    assert not (tmp_path / "eau2-data").exists()
    eau2("put", "a", "x")
    assert eau2("doctor", "--json").json["store"]["holds"].startswith("1 key,")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    ran = eau2("doctor", "--store", "other", "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert list(ran.json["findings"][-1]) == ["what", "hint", "broken"]
    for ran in (eau2("doctor"), eau2("doctor", "--store", "other")):
        assert max(map(len, ran.text.splitlines())) <= 80


@pytest.mark.slow
def test_the_unforeseen_is_a_sentence_without_and_a_traceback_with_debug(tmp_path):
    code = (
        "import sys, eau2.cli.upkeep as upkeep, eau2.cli as cli\n"
        "upkeep.versions = lambda: 1 / 0\n"
        "cli.main(sys.argv[1:])"
    )

    def run(*options):
        command = [sys.executable, "-c", code, "version", *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    plain, debug = run(), run("--debug")
    assert (plain.returncode, debug.returncode) == (3, 3)
    assert plain.stderr == (
        "error: unexpected ZeroDivisionError: division by zero\nhint: run it again with --debug to see where\n"
    )
    assert "Traceback" in debug.stderr


def filled(tmp_path, rows) -> list[str]:
    """Return the arguments that name a store in which the frame t has so many rows."""
    store = str(tmp_path / "store")
    code = f"import eau2; eau2.open({store!r}).put('t', {{'a': list(range({rows}))}})"
    subprocess.run([sys.executable, "-c", code], check=True)
    return ["--store", store]


def is_caught(process, number) -> bool:
    """Whether the process has come so far that it handles the signal: the kernel says so."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


CROSS = "select count(*) from t a, t b, t c where a.a + b.a < c.a"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["load", "a", "."], "hint: give --format one of sor,"),
        (["load", "a", "words.csv", "--schema", "a:INT,b:INT", "--on-error", "fail"], "hint: --on-error report leaves"),
        (["load", "a", "trips.csv", "--rejects", "absent/bad"], "hint: give --rejects a path in a directory"),
        (["load", "a", "cut.parquet"], "and is --format right?"),
        (["wait", "absent", "--timeout", "0.1"], "within 0.1 seconds\nhint: wait longer with --timeout,"),
    ],
    ids=["format", "on-error", "rejects", "damaged", "wait"],
)
def test_a_hint_names_options_as_they_are_typed(eau2, world, monkeypatch, command, said):
    monkeypatch.chdir(world)
    ran = eau2(*command)
    assert said in ran.error
    assert "_" not in ran.error


@pytest.mark.slow
@pytest.mark.parametrize("command", [["wait", "never", "--timeout=600"], ["sql", CROSS], ["sql", CROSS, "-o", "a.csv"]])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_it_long_before_its_time_and_leaves_nothing(tmp_path, command, number, code):
    store = filled(tmp_path, 200_000)
    with subprocess.Popen(
        [*PROGRAM, *store, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        until(lambda: is_caught(process, signal.SIGTERM))
        time.sleep(2)  # by now it waits or asks, or soon will: whichever it is, the interrupt ends it
        assert process.poll() is None
        process.send_signal(number)
        out, error = process.communicate(timeout=SECONDS_MAX)
    assert (process.returncode, out, error) == (code, b"", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [("KeyboardInterrupt", 130), ("SystemExit(143)", 143)])
def test_an_interrupt_that_native_code_made_a_system_error_of_is_one(tmp_path, stop, code):
    program = (
        "import eau2.cli.call\n"
        "def interrupted(*_):\n"
        f"    raise SystemError('<class> returned a result with an exception set') from {stop}\n"
        "eau2.cli.call.open_store = interrupted\n"
        "eau2.cli.main(['put', 'a', 'text'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=tmp_path, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, b"", b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "format_", ["csv", *(pytest.param(each, marks=pytest.mark.long) for each in ("json", "arrow"))]
)
def test_a_closed_pipe_is_silent(tmp_path, format_):
    store = filled(tmp_path, 500_000)
    command = [*PROGRAM, *store, "sql", "select * from t", "--format", format_]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert len(process.stdout.read(1000)) == 1000
        process.stdout.close()
        assert (process.stderr.read(), process.wait(SECONDS_MAX)) == (b"", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "commands"),
    [("<&-", "put k"), (">&-", "put k v; keys"), ("2>&-", "put k v"), ("<&- >&- 2>&-", "put k; get k")],
)
def test_streams_that_are_closed_are_nothing_to_stumble_over(tmp_path, closed, commands):
    store = filled(tmp_path, 10)
    for command in map(shlex.split, commands.split(";")):
        line = f"{shlex.join([*PROGRAM, *store, *command])} {closed}"
        ran = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS_MAX)
        assert (ran.returncode, ran.stderr) == (0, b""), command
