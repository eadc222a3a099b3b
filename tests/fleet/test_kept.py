"""What runs write is kept on the node: bounded, whole up to what was written, and until it is old."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eau2.errors import InvalidOption
from eau2.fleet.kept import DAYS_MAX, RUNS_MAX, SEGMENT_BYTES, SEGMENTS_MAX, KeptOutput, Piece, left_out

RUN = f"{10**12:013d}-0a"
MOST = SEGMENT_BYTES * SEGMENTS_MAX


def a_run_id(milliseconds):
    return f"{milliseconds:013d}-0a"


def wrote(kept, run_id, data, stream="out", pieces=60_000):
    keeping = kept.begin(run_id)
    for start in range(0, len(data), pieces):
        keeping.write(stream, start, data[start : start + pieces])
    return keeping


@settings(max_examples=10)
@given(st.integers(0, 3 * MOST), st.integers(7_000, 70_000), st.integers(0, 3 * MOST))
def test_of_each_stream_the_first_and_the_last_is_kept_and_what_lies_between_is_known(
    tmp_path_factory, size, at, start
):
    kept, data = KeptOutput(tmp_path_factory.mktemp("node")), os.urandom(size)
    keeping = wrote(kept, RUN, data, pieces=at)
    out, err = kept.read(RUN)  # before it is closed: as a kill leaves it
    keeping.close()
    assert err == []
    assert all(data[piece.start : piece.start + len(piece.data)] == piece.data for piece in out)
    held = sum(len(piece.data) for piece in out)
    assert held == size if size <= MOST else MOST - SEGMENT_BYTES < held <= MOST
    assert left_out(out, size) == size - held
    if size:
        assert out[0].start == 0
        assert out[-1].start + len(out[-1].data) == size
    (later, _) = kept.read(RUN, (start, 0))
    assert b"".join(piece.data for piece in later) == b"".join(
        piece.data[max(0, start - piece.start) :] for piece in out
    )


def test_both_streams_and_runs_are_apart_and_only_their_owner_reads_them(tmp_path):
    kept = KeptOutput(tmp_path)
    keeping = kept.begin(RUN)
    keeping.write("out", 0, b"a")
    keeping.write("err", 0, b"b")
    keeping.write("out", 1, b"c")
    keeping.close()
    wrote(kept, a_run_id(10**12 + 1), b"other").close()
    assert kept.read(RUN) == ([Piece(0, b"ac")], [Piece(0, b"b")])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "runs").iterdir()} == {0o600}
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o700
    assert kept.read(a_run_id(1)) == ([], [])


def test_the_oldest_go_by_number_and_by_age(tmp_path):
    kept = KeptOutput(tmp_path)
    ids = [a_run_id(10**12 + number) for number in range(RUNS_MAX + 5)]
    for run_id in ids:
        wrote(kept, run_id, b"x").close()
    assert [run_id for run_id in ids if kept.read(run_id)[0]] == ids[-RUNS_MAX:]
    late = a_run_id(10**12 + DAYS_MAX * 86_400_000 + RUNS_MAX)
    wrote(kept, late, b"x").close()
    assert [run_id for run_id in [*ids, late] if kept.read(run_id)[0]] == [*ids[RUNS_MAX:], late]


@pytest.mark.parametrize("name", ["", "../x", "1-a", f"{RUN}/../x", f"{RUN}.out"])
def test_what_is_no_id_is_no_file(tmp_path, name):
    for ask in (KeptOutput(tmp_path).begin, KeptOutput(tmp_path).read):
        with pytest.raises(InvalidOption):
            ask(name)


def test_a_full_disk_leaves_out_what_it_has_no_room_for_and_ends_nothing(tmp_path, monkeypatch):
    kept = KeptOutput(tmp_path)
    keeping = kept.begin(RUN)
    keeping.write("out", 0, b"before")
    with monkeypatch.context() as patch:
        patch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        keeping.write("out", 6, b"lost")
    keeping.write("out", 10, b"after")
    keeping.close()
    out, _ = kept.read(RUN)
    assert out == [Piece(0, b"before"), Piece(10, b"after")]
    assert left_out(out, 15) == 4
    (tmp_path / "file").write_bytes(b"")
    KeptOutput(tmp_path / "file").begin(RUN).write("out", 0, b"x")  # a folder that cannot be made
