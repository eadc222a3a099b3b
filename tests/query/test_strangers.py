"""Functions over chunks and rows as a stranger writes them: what they raise and return may be anything."""

import threading

import pyarrow as pa
import pytest

from eau2.errors import FunctionFailed, QueryError

pytestmark = pytest.mark.slow  # starts many processes

BOTH = pytest.mark.parametrize("workers", ["threads", "processes"])


@pytest.fixture
def frame(tables):
    return tables.hold("t", pa.table({"id": range(1000)}), rows_per_chunk=100)


class WantsTwo(Exception):
    """As of many libraries: made again from its message alone, it fails."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")


class OneWay:
    """Can be sent, and not be made again."""

    def __reduce__(self):
        return int, ("no number",)


def fails_for_two(table):
    raise WantsTwo("too many", 7)


def fails_with_a_lock(table):
    error = ValueError("too many")
    error.lock = threading.Lock()
    raise error


def fails_mutely(table):
    raise Mute


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (fails_for_two, "WantsTwo: too many"),
        (fails_with_a_lock, "ValueError: too many"),
        (fails_mutely, "Mute"),
        (lambda table: threading.Lock(), "cannot pickle '_thread.lock' object"),
        (lambda table: (row for row in [1]), "cannot pickle 'generator' object"),
        (lambda table: OneWay(), "cannot be made again in this process"),
    ],
    ids=["two arguments", "with a lock", "mute", "lock", "generator", "one way"],
)
def test_what_a_process_cannot_send_back_is_a_failure_that_says_so_and_the_process_lives(frame, capfd, function, said):
    with pytest.raises(FunctionFailed, match=said) as failed:
        frame.map_chunks(function, workers="processes")
    assert failed.value.chunk >= 0
    assert "worker process ended" not in str(failed.value)
    assert capfd.readouterr().err == ""


def test_an_error_that_cannot_say_what_it_is_is_a_failure_in_threads_too(frame):
    with pytest.raises(FunctionFailed, match="Mute, whose text is a ValueError"):
        frame.map_chunks(fails_mutely)


@BOTH
def test_rows_without_columns_are_kept_or_not(tables, workers):
    frame = tables.hold("t", pa.table({"a": range(40_000)}).select([]), rows_per_chunk=20_000)
    assert frame.map_rows(len, workers=workers) == [0] * 40_000
    assert frame.filter_rows(lambda row: row == {}, workers=workers).rows == 40_000
    assert frame.filter_rows(lambda row: False, workers=workers).rows == 0


def test_rows_of_columns_of_one_name_are_refused_as_a_dict_would_lose_some(tables):
    frame = tables.hold("t", pa.table([[1], [2]], names=["a", "a"]))
    for verb in (frame.map_rows, frame.filter_rows):
        with pytest.raises(QueryError, match="several columns of one name"):
            verb(len)
    assert frame.map_chunks(lambda table: table.num_columns) == [2]


def test_what_combines_is_a_function_and_is_looked_at_first(frame):
    called = []
    with pytest.raises(QueryError, match="combine is a function"):
        frame.map_chunks(called.append, combine=3)
    assert called == []
