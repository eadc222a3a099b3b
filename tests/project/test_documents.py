"""What the documents show runs, and what they name exists."""

import re
from pathlib import Path

import pytest

import eau2

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(match.group(1), id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, match in enumerate(SNIPPET.finditer(path.read_text()))
]


@pytest.mark.slow
@pytest.mark.parametrize("code", SNIPPETS)
def test_the_code_in_the_documents_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "document", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_of_the_project_hold(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readme_names_the_two_commands_and_every_verb_of_the_store():
    text = (ROOT / "README.md").read_text()
    reference = (ROOT / "docs" / "reference.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    for name in dir(eau2.Store):
        if not name.startswith("_") and name != "node":
            assert f"`{name}" in reference, f"describe Store.{name} in docs/reference.md"
    for name in dir(eau2.Frame):
        if not name.startswith("_"):
            assert f"`{name}" in reference, f"describe Frame.{name} in docs/reference.md"
