"""Processes: all of a service ends, however it hides, and nothing else ever does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.processes import MARK, Started, is_alive, members, start, stop, wait_until

SLEEP = "import time; time.sleep(60)"
Starter = Callable[[str], Started]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path)
    stop(str(tmp_path), None, patience_s=0)


@pytest.fixture
def begin(mark: str, tmp_path: Path) -> Starter:
    """Start a Python program as the service `mark`."""

    def starter(code: str) -> Started:
        argv = [sys.executable, "-c", code]
        log = tmp_path / "out.log"
        return start(argv, mark=mark, env=dict(os.environ), folder=tmp_path, log=log)

    return starter


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user and program that is none of ours."""
    child = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def said(folder: Path, word: str) -> bool:
    return wait_until(lambda: word in (folder / "out.log").read_text(), 10)


def test_a_stopped_service_is_gone(begin: Starter, mark: str) -> None:
    started = begin(SLEEP)
    assert is_alive(started)
    assert stop(mark, started, patience_s=5) == 1
    assert not psutil.pid_exists(started.pid)


def test_a_child_in_a_session_of_its_own_goes_too(
    begin: Starter, mark: str, tmp_path: Path
) -> None:
    # As Ray starts the driver of a job.
    started = begin(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
        "print('child', child.pid, flush=True); time.sleep(60)"
    )
    assert said(tmp_path, "child")
    child = int((tmp_path / "out.log").read_text().split()[1])
    stop(mark, started, patience_s=5)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_an_orphan_with_another_environment_goes_by_its_session(
    begin: Starter, mark: str, tmp_path: Path
) -> None:
    # As Ray's workers, whose title overwrites their environment.
    started = begin(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], env={{}})\n"
        "print('child', child.pid, flush=True)"
    )
    assert said(tmp_path, "child")
    child = psutil.Process(int((tmp_path / "out.log").read_text().split()[1]))
    assert wait_until(lambda: not is_alive(started), 10)
    stop(mark, started, patience_s=0)
    assert wait_until(lambda: not child.is_running() or child.status() == "zombie", 30)


def test_one_that_ignores_sigterm_is_killed(begin: Starter, mark: str, tmp_path: Path) -> None:
    started = begin(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    assert said(tmp_path, "deaf")
    stop(mark, started, patience_s=0.3)
    assert not is_alive(started)


def test_one_that_ends_by_itself_may_finish(begin: Starter, mark: str, tmp_path: Path) -> None:
    started = begin(
        "import signal, sys, time\n"
        "def end(*_): time.sleep(0.5); print('finished', flush=True); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    assert said(tmp_path, "ready")
    stop(mark, started, patience_s=10)
    assert "finished" in (tmp_path / "out.log").read_text()


def test_a_pid_that_now_is_somebody_else_is_left_alone(
    mark: str, bystander: subprocess.Popen[bytes]
) -> None:
    # The state file of before a restart of the machine: the pid runs, but began at another time.
    stale = Started(bystander.pid, psutil.Process(bystander.pid).create_time() - 1000)
    assert not is_alive(stale)
    stop("some other home", stale, patience_s=1)
    time.sleep(0.2)
    assert bystander.poll() is None


def test_a_service_of_another_home_is_left_alone(begin: Starter, mark: str) -> None:
    started = begin(SLEEP)
    assert stop(f"{mark}-other", None, patience_s=0) == 0
    assert is_alive(started)


def test_a_process_never_counts_itself_or_its_parents(mark: str) -> None:
    code = (
        "import sys\n"
        "from infra.processes import members\n"
        f"print([p.pid for p in members({mark!r}, None)])"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, MARK: mark, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_service_can_be_interrupted_though_its_starter_cannot(
    begin: Starter, tmp_path: Path
) -> None:
    # A script's background job ignores SIGINT, and so does all that it starts.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        started = begin(f"print('ready', flush=True); {SLEEP}")
    finally:
        signal.signal(signal.SIGINT, before)
    assert said(tmp_path, "ready")
    os.kill(started.pid, signal.SIGINT)
    assert wait_until(lambda: not is_alive(started), 30)


def test_the_log_of_before_is_kept(begin: Starter, mark: str, tmp_path: Path) -> None:
    begin("print('first')")
    assert said(tmp_path, "first")
    begin("print('second')")
    assert said(tmp_path, "second")
    assert (tmp_path / "out.log.previous").read_text() == "first\n"


def test_members_are_those_with_the_mark(begin: Starter, mark: str, tmp_path: Path) -> None:
    started = begin(f"print('ready', flush=True); {SLEEP}")
    assert said(tmp_path, "ready")
    assert [p.pid for p in members(mark, None)] == [started.pid]
