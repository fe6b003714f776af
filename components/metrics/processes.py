"""Blocks over several processes of this machine: answers in order, and few blocks under way at once."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.metrics.scoring import Run

AHEAD = 2
"""Blocks a process that wait or are under way: bounds what is held, and keeps every process busy."""


@contextmanager
def in_processes(count: int) -> Iterator[tuple[Run, Path]]:
    """A `map` over `count` processes, and a folder of theirs that ends with them.

    An error of a block is raised here as it is. Spawned, as a forked process would inherit locks that threads hold.
    """
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="diptych-score-") as folder,
        ProcessPoolExecutor(count, mp_context=context) as pool,
    ):

        def run(function: Callable[[Any], Any], blocks: Iterable[Any]) -> Iterator[Any]:
            under_way: deque[Future[Any]] = deque()
            for block in blocks:
                under_way.append(pool.submit(function, block))
                if len(under_way) >= AHEAD * count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

        yield run, Path(folder)
