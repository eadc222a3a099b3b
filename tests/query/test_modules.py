"""Which of the caller's modules travel, and how they are found where they arrive."""

import pickle
import subprocess
import sys
import textwrap

import pytest

from eau2.query import modules

pytestmark = pytest.mark.slow  # starts processes
FILES = {
    "whole/__init__.py": "NAME = 'whole'",
    "whole/part.py": "from whole import NAME",
    "whole/later.py": "WHEN = 'later'",
    "parts/one.py": "import inspect\ndef function():\n    return inspect.getsource(function)",
    "beside.py": "WHERE = 'beside'",
    "json.py": "raise RuntimeError('the one of the standard library is meant')",
    "loaded.py": "VALUE = 1",
    "large.py": "#" * (modules.SIBLING_BYTES_MAX + 1),
    "not a module.py": "",
}


def run(folder, code, given=b""):
    """Run `code` in a process that finds eau2 and, of this test, only what is in `folder`."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n" + textwrap.dedent(code)]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


SEND = """
    import json, pickle, loaded, whole.part, parts.one
    from eau2.query.modules import own_modules
    sys.stdout.buffer.write(pickle.dumps(own_modules()))
"""


def made(tmp_path):
    for name, source in FILES.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(source)
    return tmp_path / "mine"


def test_what_is_loaded_travels_and_what_lies_beside_it(tmp_path):
    (made(tmp_path) / "json.py").unlink()
    found = {module.name: module for module in pickle.loads(run(tmp_path / "mine", SEND))}
    loaded = {"loaded", "parts", "parts.one", "whole", "whole.part"}
    assert found.keys() == loaded | {"beside", "whole.later"}
    assert {name for name, module in found.items() if module.is_loaded} == loaded
    assert {name for name, module in found.items() if module.is_package} == {"parts", "whole"}


def test_modules_are_imported_from_memory_and_those_not_loaded_yet_after_all_that_is_there(tmp_path):
    folder = made(tmp_path)
    (folder / "json.py").rename(tmp_path / "json.py")
    sent = run(folder, SEND)
    (tmp_path / "json.py").rename(folder / "json.py")
    source = (folder / "json.py").read_bytes()
    json = modules.SourceFile("json", str(folder / "json.py"), source, is_package=False, is_loaded=False)
    for path in folder.rglob("*.py"):
        path.unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "loaded.py").write_text("VALUE = 2")
    said = run(
        tmp_path / "other",
        """
        import pickle
        from eau2.query.modules import install
        install(pickle.load(sys.stdin.buffer))
        import json, beside, loaded, whole.part, whole.later, parts.one
        print(whole.part.NAME, whole.later.WHEN, beside.WHERE, loaded.VALUE, json.dumps([1]), parts.one.__file__)
        print(parts.one.function())
        """,
        pickle.dumps((*pickle.loads(sent), json)),
    )
    first, rest = said.decode().split("\n", 1)
    assert first == f"whole later beside 1 [1] {folder}/parts/one.py"
    assert rest.strip() == "def function():\n    return inspect.getsource(function)"
