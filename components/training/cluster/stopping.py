"""Ending a training after a whole step, with a checkpoint of it: asked by a file or a signal, agreed by all workers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import torch
from torch import Tensor
from torch import distributed as dist

STOP = "STOP"
"""A file of this name in a run's folder ends the training after the step it is in; starting the run removes it."""


def ask_to_stop(folder: Path) -> None:
    """Ask whoever trains in `folder` to end after the step it is in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).touch()


def is_asked_to_stop(folder: Path) -> bool:
    """Whether somebody asked, and no start of the run took it back."""
    return (folder / STOP).exists()


def forget_stop(folder: Path) -> None:
    """What starting a run does first."""
    (folder / STOP).unlink(missing_ok=True)


class Agreed:
    """The `stop` of `loop.fit` on several workers: all hear the same answer at the same step.

    One worker alone would leave the others waiting in a collective. Each step starts one all-reduce of one number and
    reads that of the step before, which is there by then: a stop comes one step later and no step waits for it.
    """

    def __init__(self, wanted: Callable[[], bool], device: torch.device | str = "cpu") -> None:
        self._wanted, self._device = wanted, device
        self._asked: tuple[dist.Work, Tensor] | None = None

    def __call__(self, step: int) -> bool:
        """Whether to end now."""
        answer = self._answer()
        vote = torch.tensor(float(self._wanted()), device=self._device)
        work = dist.all_reduce(vote, op=dist.ReduceOp.MAX, async_op=True)
        self._asked = work, vote
        return answer

    def _answer(self) -> bool:
        if self._asked is None:
            return False
        work, vote = self._asked
        work.wait()
        return bool(vote)


class Signals:
    """Ctrl-C and SIGTERM (a preemption notice, Prefect's cancel) as a question asked after each step.

    Handlers are put in when it is first asked, so that a training that has not reached its loop ends at once; a second
    signal does too. On leaving, the handlers that were there before come back and hear of the signal. Outside the main
    thread, which alone hears signals, it answers no.
    """

    def __init__(self) -> None:
        self._heard: int | None = None
        self._before: dict[
            int, signal.Handlers | int | Callable[[int, FrameType | None], object]
        ] = {}

    def __enter__(self) -> Self:
        return self

    def asked(self) -> bool:
        """Whether a signal came since it was first asked."""
        if not self._before and threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM):
                self._before[each] = signal.signal(each, self._hear) or signal.SIG_DFL
        return self._heard is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        if self._heard is not None:
            signal.raise_signal(self._heard)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard is not None:
            self._restore()
            signal.raise_signal(number)
        self._heard = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
