"""The machine of Ray's head is lost for good while everything is done: errors come in time, and a new cluster over the
same directories has everything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.on_ray.log import LONGEST_SECONDS_MAX, Told
from tests.on_ray.soak import python, typed
from tests.until import until

from eau2.remote import launch

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.long]

LINES = 100  # of the log


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EAU2_HOME", str(tmp_path / "home"))
    yield tmp_path
    for cluster in launch.all_of_them():
        launch.down(cluster.name)


def test_the_head_is_lost_while_everything_is_done(home):
    typed("up", "--nodes", "3", "--data-dir", str(home / "data"))
    python("tests.on_ray.settle", "ray:", "begin")
    log = home / "driver.log"
    command = [sys.executable, "-m", "tests.on_ray.load", "ray:", log, "driver", "600"]
    with (home / "driver.txt").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as driver:
        try:
            until(lambda: log.exists() and log.read_bytes().count(b"\n") > LINES)
            cluster = launch.find()
            for pid in [*cluster.processes("gcs_server"), cluster.raylet("node-0")]:
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on, and is refused everything
                driver.wait(LONGEST_SECONDS_MAX)
        finally:
            driver.kill()
    began = time.monotonic()
    assert len(json.loads(typed("up"))["started"]) == 3
    wrong = json.loads(python("tests.on_ray.settle", "ray:", "end", str(home)).splitlines()[-1])
    told = Told.of(home.glob("*.log"))
    print(told, f"up and whole in {time.monotonic() - began:.1f} s")
    assert wrong + told.verdict(killed=["driver"]) == []


def test_a_process_outlives_a_cluster_that_has_ended_and_goes_on_with_another(home):
    for name in ("one", "two"):
        typed("up", "--name", name, "--nodes", "2")
    assert python("tests.on_ray.reconnecting") == ""
