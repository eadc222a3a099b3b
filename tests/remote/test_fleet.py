"""Commands and files on every node of a cluster, whose nodes ask each other over sockets: once on each."""

import contextlib
import os
import sys
import threading
import time

import pytest
from tests.fleet.runs import a_run
from tests.remote.clusters import Cluster
from tests.remote.sockets import SocketTransport
from tests.until import until

from eau2.errors import InvalidOption, NodeUnavailable, NotAllowed
from eau2.fleet.files import Source
from eau2.fleet.kept import Piece
from eau2.fleet.lines import Lines
from eau2.fleet.run import PART_BYTES, Output
from eau2.fleet.tree import spread
from eau2.remote.fleet import Fleet

pytestmark = pytest.mark.slow  # processes are started, and waited for

PIECES = 6_000  # of 64 KiB
NAMES = tuple(f"n{number}" for number in range(7))


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path / "nodes", NAMES, allow_exec=True) as found:
        yield found


@contextlib.contextmanager
def fleet_of(cluster, **options):
    transport = SocketTransport(cluster.sockets)
    try:
        with Fleet(transport, **options) as found:
            until(lambda: found._view().live == tuple(sorted(found.names())))
            yield found
    finally:
        transport.close()


@pytest.fixture
def fleet(cluster):
    with fleet_of(cluster) as found:
        yield found


class Shown:
    """What a caller hears."""

    def __init__(self):
        self.lines, self.ended, self._lines = [], [], Lines()

    def __call__(self, said):
        if isinstance(said, Output):
            self.lines += self._lines.take(said)
        else:
            self.ended.append(said)


def in_thread(call, *arguments):
    """Call it in a thread; return what waits for what it returns."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call(*arguments)))
    thread.start()

    def wait():
        thread.join(60)
        return found[0]

    return wait


def test_every_node_runs_it_once_and_what_each_wrote_and_came_to_is_heard(fleet):
    shown = Shown()
    run = a_run("sh", "-c", "echo I am $EAU2_NODE; echo oh >&2; test $EAU2_NODE != n3")
    ended = fleet.run(run, fleet.names(), shown)
    assert [(one.node, one.state, one.code) for one in ended] == [(name, "ended", int(name == "n3")) for name in NAMES]
    assert sorted(shown.ended) == ended
    assert sorted(shown.lines) == sorted(
        [(name, "out", f"I am {name}") for name in NAMES] + [(name, "err", "oh") for name in NAMES]
    )
    again = Shown()
    assert [one._replace(seconds=0) for one in fleet.run(run, fleet.names(), again)] == [
        one._replace(seconds=0) for one in ended
    ]
    assert sorted(again.lines) == sorted(shown.lines)  # it is told once more, and not done


def test_the_caller_asks_few_and_they_ask_the_others(cluster):
    asked = []

    class Counting(SocketTransport):
        def call(self, name, method, arguments, timeout_seconds):
            if method == "begin_job":
                asked.append(name)
            return super().call(name, method, arguments, timeout_seconds)

    transport = Counting(cluster.sockets)
    with Fleet(transport) as fleet:
        assert len(fleet.run(a_run("true"), fleet.names(), Shown())) == 7
    transport.close()
    assert len(asked) == 4


def test_files_come_to_every_node_whole(fleet, tmp_path):
    data = os.urandom(2 * PART_BYTES + 5)
    (tmp_path / "big.bin").write_bytes(data)
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o750)
    with Source([tmp_path / "big.bin", tmp_path / "tool"], f"{tmp_path}/{{node}}/to") as source:
        ended = fleet.run(a_run(work=source.push), fleet.names(), Shown(), source)
    assert [(one.node, one.state, one.code) for one in ended] == [(name, "ended", 0) for name in NAMES]
    for name in NAMES:
        folder = tmp_path / name / "to"
        assert (folder / "big.bin").read_bytes() == data
        assert (folder / "tool").stat().st_mode & 0o777 == 0o750
        assert len(list(folder.iterdir())) == 2


def test_those_below_a_node_that_cannot_write_the_files_get_them_from_others(fleet, tmp_path):
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "n0").write_bytes(b"in the way")
    with Source([tmp_path / "f"], f"{tmp_path}/{{node}}") as source:
        ended = fleet.run(a_run(work=source.push), fleet.names(), Shown(), source)
    assert [one.state for one in ended] == ["failed"] + ["ended"] * 6
    assert [(tmp_path / name / "f").read_bytes() for name in NAMES[1:]] == [b"data"] * 6


@pytest.fixture
def waiting(tmp_path):
    """A command that writes a line, waits until it may end, and writes another; `waiting.begun()` says on which nodes
    it was begun, as often as it was."""

    class Waiting:
        command = f"echo $EAU2_NODE >> {tmp_path}/begun; echo here; until test -e {tmp_path}/go; do sleep 0.02; done"
        run = a_run("sh", "-c", f"{command}; echo there")

        def begun(self):
            with contextlib.suppress(FileNotFoundError):
                return sorted((tmp_path / "begun").read_text().split())
            return []

        def let_go(self):
            (tmp_path / "go").touch()

    found = Waiting()
    yield found
    found.let_go()


@pytest.mark.slow
def test_a_node_that_dies_midway_is_lost_and_those_below_it_are_heard_and_run_it_once(cluster, fleet, waiting):
    assert spread(NAMES)[1] == ("n1", ("n2",))
    shown = Shown()
    ended = in_thread(fleet.run, waiting.run, NAMES, shown)
    until(lambda: waiting.begun() == list(NAMES))
    cluster.stop("n1")
    until(lambda: [one.node for one in shown.ended] == ["n1"])
    waiting.let_go()
    assert [one.state for one in ended()] == ["ended", "lost"] + ["ended"] * 5
    assert waiting.begun() == list(NAMES)
    assert sorted(line for line in shown.lines if line.node != "n1") == sorted(
        (name, "out", text) for name in NAMES if name != "n1" for text in ("here", "there")
    )

    # It returns, is asked once more, and does nothing.
    cluster.start("n1")
    until(lambda: "n1" in fleet._view().live)
    (again,) = fleet.run(waiting.run, ["n1"], Shown())
    assert (again.state, again.why) == ("lost", "the node was ended while it ran")
    assert waiting.begun() == list(NAMES)


def test_whoever_cancels_ends_it_everywhere_and_what_was_cancelled_does_not_begin_later(fleet, waiting):
    ended = in_thread(fleet.run, waiting.run, NAMES[:6], Shown())
    until(lambda: waiting.begun() == list(NAMES[:6]))
    assert fleet.one(waiting.run.id).is_running
    fleet.cancel(waiting.run.id)
    assert {one.state for one in ended()} == {"cancelled"}
    (late,) = fleet.run(waiting.run, ["n6"], Shown())
    assert (late.state, late.why) == ("cancelled", "it was not begun")
    assert waiting.begun() == list(NAMES[:6])


@pytest.mark.long
def test_what_a_node_that_was_ended_had_written_is_there_when_it_is_back(cluster, fleet, waiting):
    ended = in_thread(fleet.run, waiting.run, ["n1"], Shown())
    until(lambda: waiting.begun() == ["n1"] and fleet.written(waiting.run.id, "n1").out)
    cluster.stop("n1")
    with pytest.raises(NodeUnavailable):
        fleet.written(waiting.run.id, "n1")
    cluster.start("n1")
    found = until(lambda: fleet.one(waiting.run.id))
    assert [(name, one.state) for name, one in found.on.items()] == [("n1", "lost")]
    assert fleet.written(waiting.run.id, "n1").out == [Piece(0, b"here\n")]
    assert fleet.written(a_run("date").id, "n1") is None
    ended()


@pytest.mark.slow
def test_a_dead_node_is_not_reached_and_all_others_are(cluster, fleet):
    cluster.stop("n3")
    until(lambda: "n3" not in fleet._view().present)
    ended = fleet.run(a_run("true"), fleet.names(), Shown())
    assert [one.state for one in ended] == ["ended"] * 3 + ["unreached"] + ["ended"] * 3


def test_a_node_that_cannot_do_it_for_whatever_reason_holds_up_nobody(cluster, fleet):
    cluster.running["n1"].server._jobs._begin.pop("run")
    ended = fleet.run(a_run("true"), NAMES, Shown())
    assert [one.state for one in ended] == ["ended", "lost"] + ["ended"] * 5
    assert ended[1].why == "n1 cannot do it: KeyError: 'run'"


def test_who_raises_amid_it_has_it_ended_everywhere(fleet, waiting, cluster):
    class Enough(Exception):
        pass

    def hear(said):
        if len(waiting.begun()) == 7:
            raise Enough

    with pytest.raises(Enough):
        fleet.run(a_run("sh", "-c", f"{waiting.command} & while sleep 0.05; do echo; done"), NAMES, hear)
    until(lambda: {one.state for one in last_run(fleet).on.values()} == {"cancelled"})


@pytest.mark.slow
def test_a_caller_that_reads_slowly_slows_it_down_and_misses_nothing(fleet, tmp_path):
    """What is written waits at the nodes, up to a limit; here that is a quarter of what there is to write."""
    code = f"""if True:
        import os
        with open({os.fspath(tmp_path / "count")!r}, "w") as file:
            for number in range(1, {PIECES + 1}):
                os.write(1, b"x" * 65535 + b"\\n")
                os.pwrite(file.fileno(), b"%6d" % number, 0)"""
    heard = []

    def count():
        with contextlib.suppress(OSError, ValueError):
            return int((tmp_path / "count").read_text())
        return 0

    def waits():
        before = count()
        time.sleep(0.5)
        return 0 < count() == before

    def hear(said):
        if not heard:
            until(waits)
            assert count() < PIECES / 3
        heard.append(said)

    (ended,) = fleet.run(a_run(sys.executable, "-c", code), ["n1"], hear)
    assert ended.code == 0
    assert sum(len(said.data) for said in heard[:-1]) == PIECES * 65536


def last_run(fleet):
    return fleet.audit(1)[0]


def test_at_the_deadline_it_is_ended(fleet):
    ended = fleet.run(a_run("sleep", "600", deadline_seconds=0.2), NAMES, Shown())
    assert {one.state for one in ended} == {"deadline"}


def test_the_log_says_who_ran_what_where_and_what_came_of_it(fleet, cluster):
    run = a_run("sh", "-c", "exit 2")
    fleet.run(run, ["n2", "n4"], Shown())
    found = last_run(fleet)
    assert (found.record.id, found.record.user, found.record.host) == (run.id, "ann", "desk")
    assert found.record.text == "sh -c 'exit 2'"
    assert {name: (one.state, one.code) for name, one in found.on.items()} == dict.fromkeys(["n2", "n4"], ("ended", 2))
    newer = a_run("true")
    fleet.run(newer, ["n0"], Shown())
    assert [one.record.id for one in fleet.audit(2)] == [newer.id, run.id]


def test_rolling_goes_from_node_to_node_and_stops_at_the_first_that_fails(fleet, tmp_path):
    command = f"echo $EAU2_NODE >> {tmp_path}/order; test $EAU2_NODE != n4"
    shown = Shown()
    ended, are_well = fleet.roll(a_run("sh", "-c", command), ["n5", "n4", "n0"], shown)
    assert [(one.node, one.state, one.code) for one in ended] == [
        ("n5", "ended", 0),
        ("n4", "ended", 1),
        ("n0", "skipped", None),
    ]
    assert not are_well
    assert shown.ended == ended
    assert (tmp_path / "order").read_text().split() == ["n5", "n4"]
    assert fleet.roll(a_run("true"), ["n5", "n4"], Shown())[1]


@pytest.mark.slow
def test_rolling_goes_on_when_a_node_that_was_ended_by_the_run_is_back(cluster, fleet, tmp_path):
    run = a_run("sh", "-c", f"touch {tmp_path}/begun-$EAU2_NODE; test $EAU2_NODE != n2 || sleep 600")
    found = in_thread(fleet.roll, run, ["n2", "n3"], Shown())
    until((tmp_path / "begun-n2").exists)
    cluster.stop("n2")
    until(lambda: "n2" not in fleet._view().present)
    assert not (tmp_path / "begun-n3").exists()
    cluster.start("n2")
    ended, are_well = found()
    assert [one.node for one in ended] == ["n2", "n3"]
    assert ended[0].state == "lost"
    assert are_well


def test_a_name_that_is_no_node_is_refused(fleet):
    with pytest.raises(InvalidOption, match="no node 'n9'"):
        fleet.names(["n1", "n9"])
    assert fleet.names(["n2", "n1", "n2"]) == ["n2", "n1"]


def test_a_cluster_that_was_started_without_it_runs_nothing(tmp_path):
    with Cluster(tmp_path, ["n0", "n1"]) as cluster, fleet_of(cluster) as fleet:
        ended = fleet.run(a_run("touch", str(tmp_path / "made")), fleet.names(), Shown())
        assert [(one.state, one.code) for one in ended] == [("refused", None)] * 2
        assert fleet.audit(9) == []
        assert [(one.user, one.text) for one in fleet.refusals(9)] == [("ann", f"touch {tmp_path}/made")]
        with pytest.raises(NotAllowed):
            fleet.admit(a_run("date"))
        assert [one.text for one in fleet.refusals(9)] == ["date", f"touch {tmp_path}/made"]
    assert not (tmp_path / "made").exists()
