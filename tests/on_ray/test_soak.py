"""A minute of what `python -m tests.on_ray.soak` does for as long as one likes."""

import subprocess
import sys

import pytest

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(900)]


def test_whatever_is_killed_and_frozen_nothing_is_lost_or_wrong_or_left(tmp_path):
    arguments = ["--minutes", "1", "--kills", "8", "--folder", str(tmp_path / "soak")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.on_ray.soak", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
