"""Work in a thread, heard by the one that started it."""

from __future__ import annotations

import contextvars
import signal
import threading
import time
from types import FrameType

import pytest

from components.training.cluster.beside import beside


class Cancelled(BaseException):
    pass


def test_what_the_work_raised_is_raised_here() -> None:
    def fails() -> None:
        raise ValueError("no rows")

    asked: list[str] = []
    with pytest.raises(ValueError, match="no rows"):
        beside(fails, ask_to_end=lambda: asked.append("end"))
    assert not asked


def test_it_looks_while_the_work_goes_on_and_once_after_its_end() -> None:
    looked, done = threading.Event(), threading.Event()
    seen: list[bool] = []

    def work() -> None:
        assert looked.wait(10)
        done.set()

    def look() -> None:
        seen.append(done.is_set())
        looked.set()

    beside(work, ask_to_end=done.set, look=look)
    assert seen[0] is False
    assert seen[-1] is True


def test_a_signal_asks_the_work_to_end_and_waits_for_it() -> None:
    asked, ended = threading.Event(), threading.Event()

    def work() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # not before it is begun
        assert asked.wait(10)
        time.sleep(0.1)  # a checkpoint
        ended.set()

    def cancel(signum: int, frame: FrameType | None) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGALRM, cancel)
    try:
        with pytest.raises(Cancelled):
            beside(work, ask_to_end=asked.set)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended.is_set()


def test_the_work_sees_the_context_it_was_started_in() -> None:
    run = contextvars.ContextVar("run", default="none")
    run.set("a run")
    seen: list[str] = []
    beside(lambda: seen.append(run.get()), ask_to_end=seen.clear)
    assert seen == ["a run"]
