"""Start a service as a session of its own, know it again, and end all of it and nothing else.

What is ours is told by a mark in its environment, by descent, and by session; a pid alone proves
nothing, as pids are used again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "DIPTYCH_SERVICE"

# Children of this very process: someone must wait for them, or they stay as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Started:
    """A process we started: its pid, and when it began (seconds since 1970) to know it again."""

    pid: int
    began_s: float


def start(
    argv: Sequence[str], *, mark: str, env: Mapping[str, str], folder: Path, log: Path
) -> Started:
    """Start `argv` in its own session, its output in `log`, working in `folder`.

    The log begins anew; the one before stays beside it as ``….previous``.
    """
    if log.exists():
        log.replace(log.with_name(f"{log.name}.previous"))
    launch = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*launch, *argv],
            env={**env, MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[child.pid] = child
    return Started(child.pid, _began(child.pid))


def is_alive(started: Started) -> bool:
    """Whether this very process still runs: same pid, same beginning, not a zombie."""
    import psutil

    _reap()
    try:
        return _is_same(started) and not _is_zombie(psutil.Process(started.pid))
    except psutil.NoSuchProcess:  # ended between the two questions
        return False


def _is_same(started: Started) -> bool:
    import psutil

    try:
        # The clock that beginnings are counted from may be set by a second or so.
        return abs(_began(started.pid) - started.began_s) < 2
    except psutil.NoSuchProcess:
        return False


def members(mark: str, started: Started | None) -> list[psutil.Process]:
    """Every live process of one service: marked, descended from one, or of its session."""
    import psutil

    _reap()
    keep_off = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if _belongs(process, mark, started):
                found.update({p.pid: p for p in [process, *process.children(recursive=True)]})
    return [
        process for pid, process in found.items() if pid not in keep_off and not _is_zombie(process)
    ]


def _belongs(process: psutil.Process, mark: str, started: Started | None) -> bool:
    import psutil

    if process.uids().real != os.getuid():
        return False
    if process.environ().get(MARK) == mark:
        return True
    # Ray's workers write their title over the environment; they are still of its session.
    if started is None or os.getsid(process.pid) != started.pid:
        return False
    if psutil.pid_exists(started.pid):
        return _is_same(started)
    # The leader is gone. Its number stays taken while its session lives, but a whole other session
    # may have come and lost its leader since: only our own program, and no earlier boot, will do.
    return started.began_s > psutil.boot_time() and _is_our_program(process)


def _is_our_program(process: psutil.Process) -> bool:
    program = Path(process.exe())
    return program == Path(sys.executable).resolve() or program.is_relative_to(sys.prefix)


def _is_zombie(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def stop(mark: str, started: Started | None, *, patience_s: float) -> int:
    """End a service: its first process is asked, all that is left after `patience_s` is killed.

    Returns how many processes it was. Raises RuntimeError if some outlive SIGKILL by 10 s.
    """
    seen = {process.pid: process for process in members(mark, started)}
    if started is not None and is_alive(started) and patience_s > 0:
        # Asked first and alone, it can end its own children in good order.
        os.kill(started.pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(started), patience_s)
    deadline = time.monotonic() + 10
    while left := _left(seen, mark, started):
        if time.monotonic() > deadline:
            raise RuntimeError(f"These processes outlive SIGKILL: {[p.pid for p in left]}.")
        for process in left:
            with suppress(Exception):  # gone meanwhile; the loop looks again
                process.kill()
        time.sleep(0.05)
    return len(seen)


def _left(
    seen: dict[int, psutil.Process], mark: str, started: Started | None
) -> list[psutil.Process]:
    seen.update({process.pid: process for process in members(mark, started)})
    return [p for p in seen.values() if p.is_running() and not _is_zombie(p)]


def wait_until(holds: Callable[[], bool], patience_s: float, every_s: float = 0.1) -> bool:
    """Whether `holds()` came true within `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that `finally` blocks run and services stop.

    Only the main thread may do that; elsewhere it changes nothing. A signal that is ignored
    (nohup) stays so.
    """
    before = {}
    with suppress(ValueError):
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deaf() -> Iterator[None]:
    """Let no signal but SIGKILL break off a block that takes a moment (main thread only)."""
    before = {}
    with suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _began(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).create_time())


def _reap() -> None:
    for pid in [pid for pid, child in _children.items() if child.poll() is not None]:
        del _children[pid]
