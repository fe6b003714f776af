"""A process whose steps stop coming ends and tells where; one that is through its steps may take its time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.training.cluster import watching

ROOT = Path(watching.__file__).parents[3]
WORK = """
import sys, time
from pathlib import Path
from components.training.cluster.watching import watched

with watched(Path(sys.argv[1]), 1, 0.5) as alive:
    for each in sys.argv[2]:
        alive(watched=each == "w")
    time.sleep(1.5)
"""


@pytest.mark.parametrize(
    ("steps", "ends"), [("", False), ("w", True), ("ww", True), ("wl", False), ("wlw", True)]
)
def test_only_a_process_that_owes_a_step_is_ended(tmp_path, steps, ends):
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path), steps], cwd=ROOT, timeout=60, check=False
    )
    told = (tmp_path / watching.STACKS / "rank-1.txt").read_text()
    assert done.returncode == int(ends)
    assert ("most recent call first" in told) == ends
