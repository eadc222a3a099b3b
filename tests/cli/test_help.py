"""Help, the page that describes the commands, and how things look."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import typer
from rich.cells import cell_len

import eau2 as library
from eau2.cli.app import COMMANDS, application
from eau2.cli.exits import EXIT_CODES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"
NAMES = [command.__name__ for commands in COMMANDS.values() for command in commands]
COMMON = {"--store", "--json", "--debug"}


def section(name: str) -> str:
    match = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert match, f"describe `eau2 {name}` in docs/command-line.md"
    return match[1]


def test_the_commands_are_those_of_the_page_in_its_order():
    assert re.findall(r"^### (\w+)", PAGE.read_text(), re.MULTILINE) == NAMES
    listed = "put get delete keys wait load show sql run wordcount linus sor up down deploy join leave"
    listed += " nodes drain exec push serve crud certificate top check doctor bench version"
    assert " ".join(NAMES) == listed


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_on_the_page_and_every_command_takes_the_common_ones(name):
    command = typer.main.get_command(application()).commands[name]
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert options >= COMMON
    text = section(name)
    for option in options - COMMON:
        assert f"{option}" in text, f"describe {option} of `eau2 {name}` in docs/command-line.md"


def test_every_error_of_the_table_of_codes_is_on_the_page_under_its_code():
    rows = {line.split()[1]: line for line in PAGE.read_text().splitlines() if line.startswith("| ")}
    for error, code in EXIT_CODES.items():
        if error.__module__.startswith("eau2") and error.__name__ not in ("Eau2Error", "PipeClosed"):
            assert f"`{error.__name__}`" in rows[str(code)]


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_fits_80_columns_and_has_no_codes_in_a_pipe(eau2, name):
    ran = eau2(*[name] if name else [], "--help")
    assert ran.code == 0
    assert max(map(len, ran.text.splitlines())) <= 80
    assert "\x1b" not in ran.text
    assert "Usage: " in ran.text


def on_terminal(*arguments, cwd, **environment) -> str:
    """Return what `eau2` writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "EAU2_STORE")}
    process = subprocess.Popen(
        [sys.executable, "-m", "eau2.cli", *arguments],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env | {"TERM": "xterm-256color"} | environment,
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 4096):
            parts.append(part)
    except OSError:  # the other end was closed
        pass
    os.close(ours)
    process.wait(30)
    return b"".join(parts).decode()


@pytest.mark.slow
def test_a_terminal_gets_colours_unless_told_not_to(tmp_path):
    assert "\x1b[1;31m" in on_terminal("get", "a", cwd=tmp_path)
    plain = on_terminal("get", "a", cwd=tmp_path, NO_COLOR="1")
    assert set(re.findall(r"\x1b\[([0-9;]*)m", plain)) <= {"0", "1"}  # bold is no colour


@pytest.mark.slow
def test_a_terminal_does_not_get_a_file_or_parquet(eau2, tmp_path):
    (tmp_path / "f").write_bytes(b"\x00" * 100)
    eau2("put", "f", "--file", "f")
    assert "--output" in on_terminal("get", "f", cwd=tmp_path)
    assert "not for a terminal" in on_terminal("sql", "select 1", "--format", "parquet", cwd=tmp_path)


@pytest.mark.slow
def test_a_wide_frame_fits_a_terminal(eau2, tmp_path):
    with library.open(tmp_path / "eau2-data") as store:
        store.put("wide", {f"column {i}": ["x" * 40, "東京" * 9] for i in range(9)})
    for command in (["show", "wide"], ["sql", "select * from wide"]):
        lines = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(*command, cwd=tmp_path)).splitlines()
        assert len(lines) > 4
        assert max(cell_len(line) for line in lines) <= 80


def test_nothing_has_codes_in_a_pipe(eau2, trips, tmp_path):
    (tmp_path / "bad.sor").write_text("<1>\nbad\n")
    for command in (
        ["put", "a", "x"],
        ["keys", "--long"],
        ["load", "bad", "bad.sor"],
        ["show", "trips"],
        ["sql", "select * from trips"],
        ["wordcount", "bad.sor"],
        ["check"],
        ["doctor"],
        ["get", "absent"],
        ["delete", "a", "absent"],
    ):
        ran = eau2(*command)
        assert "\x1b" not in ran.text + ran.error


@pytest.mark.slow
def test_version_and_help_do_not_wait_for_the_query_engine(tmp_path):
    code = """
import sys, eau2.cli as cli
try:
    cli.main([sys.argv[1]])
except SystemExit:
    print("datafusion" in sys.modules)
"""
    for command in ("version", "--help"):
        run = [sys.executable, "-c", code, command]
        ran = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert ran.stdout.splitlines()[-1] == "False"
