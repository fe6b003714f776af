"""Who is at work in a run's folder: each worker process holds a shared lock, so that a stop can see them all gone.

The lock is the operating system's and ends with its process, however that dies. On several machines the folder lies on
a file system they share, and that has to know flock (NFS since Linux 2.6.12 does).
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_PRESENT = ".workers"
_entered: dict[Path, int] = {}


def enter(folder: Path) -> None:
    """Count as at work in `folder` for as long as this process lives."""
    if folder not in _entered:
        handle = os.open(folder / _PRESENT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(handle, fcntl.LOCK_SH)
        _entered[folder] = handle


def wait_empty(folder: Path, patience_s: float) -> bool:
    """Wait until no process is at work in `folder`; whether that came true in time."""
    deadline_s = time.monotonic() + patience_s
    while not _is_empty(folder):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _is_empty(folder: Path) -> bool:
    if not (folder / _PRESENT).exists():
        return True
    with (folder / _PRESENT).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
