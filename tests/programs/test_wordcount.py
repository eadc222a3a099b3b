"""Words are what C's isspace leaves, counted exactly, from files and frames alike."""

import os
import re
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eau2.errors import InvalidOption, InvalidValue, LoadError, ValueTooLarge
from eau2.opening import open as open_store
from eau2.programs import wordcount as module
from eau2.programs.wordcount import wordcount

WORDS = Path(__file__).parents[3] / "shared" / "data" / "words"
SPLIT = re.compile(rb"[ \t\n\v\f\r]+")


def expected(text: bytes) -> Counter:
    return Counter(word for word in SPLIT.split(text) if word)


def counts(found) -> dict:
    return dict(zip(found.counts["word"].to_pylist(), found.counts["count"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("texts") / "text"


@pytest.fixture
def small_blocks(monkeypatch):
    """Cuts between blocks, and between the strides in them, fall everywhere."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 7)
    monkeypatch.setattr(module, "_STRIDE_BYTES", 3)
    monkeypatch.setattr(module, "_block_bytes", lambda file, threads: 7)
    monkeypatch.setattr(module, "_MERGE_ROWS", 5)


# Words, all white space there is, and what only looks like it: NEXT LINE, NO-BREAK SPACE, the separators U+001C to
# U+001F, EM SPACE, NUL.
PIECES = st.sampled_from(
    [*" \t\n\v\f\r", "  ", "\r\n", "a", "b", "ab", "é", "x" * 9, "\x85", "\xa0", "\x1c", "\x1f", "\u2003", "\0", "."]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)


@given(text=TEXTS, threads=st.integers(1, 3))
def test_a_file_has_the_words_that_splitting_its_bytes_gives(text, threads, scratch):
    scratch.write_bytes(text.encode())
    found, wanted = wordcount(scratch, threads=threads), expected(text.encode())
    assert counts(found) == {word.decode(): count for word, count in wanted.items()}
    assert (found.words, found.distinct, found.undecodable) == (wanted.total(), len(wanted), 0)


@pytest.mark.usefixtures("small_blocks")
def test_where_blocks_are_cut_changes_nothing(scratch):
    @given(text=TEXTS, threads=st.integers(1, 3))
    def check(text, threads):
        scratch.write_bytes(text.encode())
        assert counts(wordcount(scratch, threads=threads)) == {
            word.decode(): count for word, count in expected(text.encode()).items()
        }

    check()


@given(text=st.lists(st.sampled_from([b" ", b"\n", b"a", b"\xff", b"\xc3", b"\xa9", b"\x85"]), max_size=30))
def test_bytes_that_are_no_text_are_counted_apart_and_shown_escaped(text, scratch):
    raw = b"".join(text)
    scratch.write_bytes(raw)
    found, wanted = wordcount(scratch), expected(raw)
    shown = sorted((word.decode("utf-8", "backslashreplace"), count) for word, count in wanted.items())
    assert sorted(found.top(1000)) == shown
    assert found.undecodable == sum(word != word.decode("utf-8", "ignore").encode() for word in wanted)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole blocks", "small blocks"])
def test_a_row_of_a_frame_ends_a_word_and_may_hold_many_or_none(store, kind, cut, request):
    if cut:
        request.getfixturevalue("small_blocks")
    rows = ["to be", "or", None, "", "  not", "to\tbe ", " ", "longer than one block", None, "or", "or\vnot\n"]
    store.put("rows", pa.table({"text": pa.array(rows).cast(kind)}))
    assert counts(wordcount(store.frame("rows"))) == dict(Counter(word for row in rows if row for word in row.split()))


@given(rows=st.lists(st.none() | TEXTS, max_size=12), start=st.integers(0, 5), stop=st.integers(5, 12))
def test_a_column_that_is_part_of_a_larger_one_gives_only_its_own_words(rows, start, stop):
    column = pa.array(rows, pa.string())[start:stop]
    total = Counter()
    for piece in module.column_pieces(column):
        part = module.count_piece(piece)
        for word, count in zip(part["word"].to_pylist(), part["count"].to_pylist(), strict=True):
            total[word] += count
    assert total == sum((expected(row.encode()) for row in rows[start:stop] if row), Counter())


def test_counting_a_frame_does_not_change_it():
    column = pa.array(["a\nb\tc", "d\re"])
    writable = pa.Array.from_buffers(
        pa.string(), 2, [None, column.buffers()[1], pa.py_buffer(bytearray(column.buffers()[2]))]
    )
    for piece in module.column_pieces(writable):
        module.count_piece(piece)
    assert writable.to_pylist() == ["a\nb\tc", "d\re"]


def test_equal_counts_are_listed_by_word(scratch):
    scratch.write_text("b a c a b é Z d d d")
    found = wordcount(scratch)
    assert found.top(3) == [("d", 3), ("a", 2), ("b", 2)]
    assert found.top(99) == [("d", 3), ("a", 2), ("b", 2), ("Z", 1), ("c", 1), ("é", 1)]
    assert found.counts.to_pydict() == {"word": ["d", "a", "b", "Z", "c", "é"], "count": [3, 2, 2, 1, 1, 1]}
    assert found.to_dict(top=1) == {"words": 10, "distinct": 6, "top": [("d", 3)]}
    assert found.top(0) == []


@pytest.mark.parametrize("text", ["", " \n\t "], ids=["empty", "blank"])
def test_a_text_without_words_has_none(scratch, store, text):
    scratch.write_text(text)
    store.put("blank", {"text": [text]})
    for found in (wordcount(scratch), wordcount(store.frame("blank"))):
        assert found.to_dict() == {"words": 0, "distinct": 0, "top": []}
        assert found.counts.num_rows == 0


def test_a_word_of_ten_megabytes_is_one_word(scratch):
    with scratch.open("wb") as file:
        file.write(b"short ")
        file.write(b"x" * 10_000_000)
        file.write(b" short")
    found = wordcount(scratch)
    assert found.to_dict(1) == {"words": 3, "distinct": 2, "top": [("short", 2)]}
    assert found.counts["word"][1].as_py() == "x" * 10_000_000


def test_a_word_over_the_limit_is_refused(scratch, monkeypatch):
    monkeypatch.setattr(module, "WORD_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 18)  # less than a word, as it is, however many threads share
    scratch.write_bytes(b"x" * (4 << 20))
    with pytest.raises(ValueTooLarge, match="over 1048576 bytes"):
        wordcount(scratch)


def test_a_pipe_is_counted_as_it_comes(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"one two " * 1_000_000 + b"two"))
    writer.start()
    found = wordcount(pipe)
    writer.join(timeout=60)
    assert found.to_dict() == {"words": 2_000_001, "distinct": 2, "top": [("two", 1_000_001), ("one", 1_000_000)]}


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(LoadError, match=r"missing\.txt: No such file") as caught:
        wordcount(tmp_path / "missing.txt")
    assert caught.value.file == str(tmp_path / "missing.txt")
    with pytest.raises(LoadError, match="directory"):
        wordcount(tmp_path)


def test_a_frame_of_other_columns_is_refused(store):
    store.put("two", {"a": ["x"], "b": ["y"]})
    store.put("number", {"a": [1]})
    with pytest.raises(InvalidValue, match="one column of text, this one has: a string, b string"):
        wordcount(store.frame("two"))
    with pytest.raises(InvalidValue, match="a int64"):
        wordcount(store.frame("number"))


def test_options_outside_their_range_are_refused(scratch):
    scratch.write_text("a")
    with pytest.raises(InvalidOption, match="threads"):
        wordcount(scratch, threads=0)
    with pytest.raises(InvalidOption, match="not -1"):
        wordcount(scratch).top(-1)


@pytest.mark.skipif(not WORDS.exists(), reason="the sample texts are not beside the repository")
@pytest.mark.parametrize(
    ("name", "words", "distinct"), [("css_more_words.txt", 786, 93), ("az_word_count.txt", 7200, 12)]
)
def test_the_sample_texts_have_the_known_counts(name, words, distinct, store):
    found = wordcount(WORDS / name)
    assert (found.words, found.distinct) == (words, distinct)
    store.put("lines", {"line": (WORDS / name).read_text().split("\n")})
    assert counts(wordcount(store.frame("lines"))) == counts(found)
