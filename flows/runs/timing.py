"""How long a night took, and how much of it was training and evaluation: the rest is orchestration."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from components.training.progress import Progress

_spent_s: Counter[str] = Counter()
"""Seconds by stage; a night has its process to itself, or starts anew with `Night`."""


class Night:
    """A stopwatch from now on."""

    def __init__(self) -> None:
        _spent_s.clear()
        self._start_s = time.monotonic()

    def sentence(self) -> str:
        """`118 s: training 71 s, evaluation 12 s, orchestration 35 s`."""
        wall_s = time.monotonic() - self._start_s
        rest_s = wall_s - sum(_spent_s.values())
        stages = [f"{stage} {_spent_s[stage]:.0f} s" for stage in ("training", "evaluation")]
        return f"{wall_s:.0f} s: {', '.join(stages)}, orchestration {rest_s:.0f} s"


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Count the block's seconds as a stage's."""
    start_s = time.monotonic()
    try:
        yield
    finally:
        _spent_s[stage] += time.monotonic() - start_s


def count_training(lines: Iterable[Progress], batch_size: int, since_s: float) -> None:
    """Count the seconds the training loop itself took, as its reports of steps and speed since `since_s` say."""
    step = 0
    for line in lines:
        if line.time >= since_s:
            _spent_s["training"] += (line.step - step) * batch_size / line.values["samples_per_s"]
        step = line.step
