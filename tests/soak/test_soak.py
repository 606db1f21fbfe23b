"""The small form of the soak, in a process of its own, for it forks and a process that has trained should not be forked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def soak(*words):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "tests.soak", *words], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "0 failed" in done.stdout
    return done.stdout


def test_a_run_that_dies_or_finds_the_disk_full_ends_as_if_nothing_had_happened():
    said = soak("--points", "6", "--pairs", "0")
    assert "6 points" in said
    assert "die -9" in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_seventy_points_and_six_of_two_processes():
    said = soak("--points", "72", "--pairs", "6")
    assert "78 points" in said
    assert int(re.search(r"killed (\d+) times", said)[1]) >= 50
