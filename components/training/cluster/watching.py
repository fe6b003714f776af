"""A worker that hangs tells where, and ends: then its group is started again, and nobody waits half an hour.

A rank that sleeps in a collective takes all others with it into the wait. Each worker that is past its first step has
a timer; when no step ends for `hang_s`, the stacks of all its threads go into `stacks/rank-<n>.txt` in the run's
folder and the process ends. The timer is faulthandler's own thread: it needs no interpreter lock.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

STACKS = "stacks"


class Alive(Protocol):
    """Says that a step ended, and whether the next one is watched."""

    def __call__(self, *, watched: bool = True) -> None: ...


@contextmanager
def watched(folder: Path, rank: int, hang_s: float) -> Iterator[Alive]:
    """Watch this process: call what is given after every step; the first call begins the watch.

    A run started again keeps the stacks of the hang before: they are added to.
    """
    (folder / STACKS).mkdir(parents=True, exist_ok=True)
    armed_s = 0.0
    with (folder / STACKS / f"rank-{rank}.txt").open("a") as file:

        def alive(*, watched: bool = True) -> None:
            nonlocal armed_s
            now_s = time.monotonic()
            if not watched:
                armed_s = 0.0
                faulthandler.cancel_dump_traceback_later()
                return
            if now_s - armed_s > hang_s / 20:  # a timer is a thread: not one for every step
                armed_s = now_s
                faulthandler.dump_traceback_later(hang_s, exit=True, file=file)

        try:
            yield alive
        finally:
            faulthandler.cancel_dump_traceback_later()
