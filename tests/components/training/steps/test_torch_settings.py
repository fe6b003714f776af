"""What a training does to the process it runs in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
FAULTS = """
import resource, sys, threading
import torch
from components.training.steps.torch_settings import keep_freed_memory

def step():
    return [torch.ones(1 << 18) for _ in range(160)]

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if "keep" in sys.argv:
    keep_freed_memory()
thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that gives memory back")
def test_a_step_takes_no_memory_anew_that_the_step_before_freed() -> None:
    """160 MB in 160 pieces, 40,960 pages, three times; in a second thread, as in a worker of Ray."""
    given_back, kept = (_faults(*words) for words in ((), ("keep",)))
    assert given_back > 20_000
    assert kept < 4_000


def _faults(*words: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", FAULTS, *words],
        env={"MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)
