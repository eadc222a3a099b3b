"""kill -9 of a writer at any moment: what was acknowledged is there, the rest whole or not, and nothing is left."""

import functools
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
from tests.crash.deeds import FRAME, Expected, table, write_texts, write_until_killed
from tests.until import SECONDS_MAX

import eau2

if TYPE_CHECKING:
    import pyarrow as pa

SEED = 20261121


def left_behind(folder, live_handles: int) -> list[str]:
    """Staging directories and files of dead processes, and half-written files."""
    staging = folder / "node-0" / "staging"
    holders = sorted(os.listdir(staging))
    files = [f"{holder}/{name}" for holder in holders for name in os.listdir(staging / holder) if name != "lock"]
    known = ("eau2.json", "filled", "node-0")
    return files + holders[live_handles:] + [name for name in os.listdir(folder) if name not in known]


def chunk_files(folder) -> set[str]:
    return {name for _, _, names in os.walk(folder / "node-0" / "chunks") for name in names}


class Crashes:
    """One store over many rounds: start a writer, kill it, look. Frames are held across kills, by this process."""

    def __init__(self, folder, processes, flush):
        self.folder, self.processes = folder / "store", processes
        self.texts = folder / "texts"
        self.texts.mkdir()
        write_texts(self.texts)
        self.opener = functools.partial(eau2.open, str(self.folder), flush=flush)
        self.expected = Expected()
        self.held: list[tuple[eau2.Frame, pa.Table]] = []
        self.deeds = 0

    def round(self, seed: int) -> None:
        chance = random.Random(seed)
        # While it opens, at the first writes, and well under way. So many deeds are waited for and not a time that a
        # slow machine takes to begin; then a moment, at which anything may be going on.
        deeds = chance.randint(*chance.choices([(0, 0), (1, 12), (20, 60)], [4, 3, 1])[0])
        moment = chance.uniform(0.0, 0.03 if deeds else 0.05)
        reader, writer = self.processes.Pipe(duplex=False)
        process = self.processes.Process(target=write_until_killed, args=(self.opener, str(self.texts), seed, writer))
        process.start()
        writer.close()
        self._listen_and_kill(reader, process, self.deeds + deeds, moment)
        with self.opener() as store:  # the next open: no repair is asked for
            self.look(store, chance)
        for frame, known in self.held:
            assert frame.to_arrow().equals(known)

    def look(self, store, chance) -> None:
        assert self.expected.settle(store) == []
        assert store.check().faults == ()
        assert left_behind(self.folder, 1) == []
        assert len(chunk_files(self.folder)) == store.statistics().chunks
        self._hold(store, chance)

    def _listen_and_kill(self, reader, process, deeds, moment) -> None:
        try:
            assert reader.poll(SECONDS_MAX)
            assert reader.recv() == ("opening",)
            while self.deeds < deeds:
                assert reader.poll(SECONDS_MAX)
                self._told(reader.recv())
            time.sleep(moment)
            process.kill()
            while True:  # what was told before the kill
                self._told(reader.recv())
        except EOFError:
            pass
        finally:
            process.kill()
            process.join(SECONDS_MAX)
            reader.close()
        assert process.exitcode == -9, "the writer ended by itself: see its traceback above"
        process.close()

    def _told(self, message) -> None:
        self.deeds += message[0] == "done"
        self.expected.told(message)

    def _hold(self, store, chance) -> None:
        frames = [(key, value[1]) for key, value in self.expected.acknowledged.items() if value[0] == FRAME]
        if frames:
            key, number = chance.choice(frames)
            self.held = [*self.held[-9:], (store.frame(key), table(number))]


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing(tmp_path, processes):
    crashes = Crashes(tmp_path, processes, "process")
    for number in range(6):
        crashes.round(SEED + number)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [25, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("flush", ["process", "power"])
def test_a_writer_killed_at_many_moments(tmp_path, processes, flush, rounds):
    crashes = Crashes(tmp_path, processes, flush)
    for number in range(rounds):
        try:
            crashes.round(SEED + 1000 + number)
        except BaseException as error:
            error.add_note(f"round {number}")
            raise
    print(f"{rounds} kills, {crashes.deeds} acknowledged deeds, flush={flush}")
    assert crashes.deeds > 5 * rounds
