"""The figures that the documents show are those that were measured."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import document  # noqa: E402

RESULTS = document.load_results()


def test_the_page_of_benchmarks_shows_exactly_the_results_that_are_kept():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    names = {match[2] for match in document.SECTION.finditer(text)}
    kept = {path.stem for path in document.RESULTS.glob("*.json")}
    assert kept <= names, "give every result a section in docs/benchmarks.md"
    assert document.filled(text, RESULTS) == text, "run `python -m benchmarks --document`"


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_where_when_and_with_what_it_was_taken(name):
    result = RESULTS[name]
    assert result["machine"]["cores"] >= 1
    assert result["commit"]
    assert result["versions"]["eau2"]
    for aim in result["targets"]:
        reached = aim["value"] >= aim["target"] if aim["bound"] == "at least" else aim["value"] <= aim["target"]
        assert aim["met"] is reached, aim


def test_numbers_are_shown_to_three_digits_and_absence_as_a_dash():
    shown = [document.number(cell) for cell in (0.012345, 1.0, 99.96, 123.4, 245_678.9, 20_000_000, None, "word", True)]
    assert shown == ["0.0123", "1", "100", "123", "246,000", "20,000,000", "–", "word", "True"]


def test_a_section_without_a_result_says_so():
    assert "make bench" in document.filled("<!-- results: kv -->\n<!-- end -->", {})
