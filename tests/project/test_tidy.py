"""Rules of the house that a machine can check. Each message says what to do instead."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eau2

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LINES_MAX = 400
FUNCTION_LINES_MAX = 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_file_is_small_and_named_for_what_it_holds(path):
    text = path.read_text()
    assert text.count("\n") <= LINES_MAX, "cut the file where its subject changes"
    assert path.stem not in {"utils", "util", "helpers", "common", "misc", "base"}, "name the file for what it holds"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines: push its loops down"
        if isinstance(node, ast.ClassDef):
            assert not re.search(r"(Manager|Helper|Handler|Util|Base)$", node.name), f"name {node.name} for what it is"


def test_every_public_name_exists_and_the_list_is_sorted():
    assert sorted(eau2.__all__) == list(eau2.__all__)
    for name in eau2.__all__:
        assert getattr(eau2, name) is not None


def test_every_error_has_a_docstring_and_is_public_and_drawn_in_the_tree():
    tree = eau2.errors.__doc__
    for name, error in vars(eau2.errors).items():
        if isinstance(error, type) and issubclass(error, Exception):
            assert error.__doc__, name
            assert name in eau2.__all__, f"export {name}"
            assert name in tree, f"draw {name} in the tree at the top of errors.py"


def test_every_public_function_and_class_has_a_docstring():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                small = isinstance(node, ast.FunctionDef) and len(node.body) <= 3  # its name and types say it all
                assert ast.get_docstring(node) or small, f"{path.name}: say what {node.name} returns, raises and costs"


def test_importing_eau2_imports_no_engine_no_other_dataframe_library_and_no_reader_of_files():
    heavy = "ray pandas polars datafusion duckdb loky typer pyarrow.compute pyarrow.csv pyarrow.json pyarrow.parquet"
    code = f"import eau2, sys; print([name for name in {heavy!r}.split() if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_storing_and_reading_an_arrow_table_imports_no_other_dataframe_library(tmp_path):
    code = """if True:
        import io, sys, eau2, pyarrow.csv
        with eau2.open(sys.argv[1]) as store:
            store.put("trips", pyarrow.csv.read_csv(io.BytesIO(b"id,fare,vendor\\n1,2.5,a\\n2,nan,b\\n")))
            store.put("again", store.frame("trips").to_arrow())
        print([name for name in ("pandas", "polars") if name in sys.modules])"""
    output = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
