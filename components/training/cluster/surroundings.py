"""What a system started inside this process may disturb, put back: environment, signals, processes, folders."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables for a while; None only remembers one, to put it back whatever happens to it."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update({name: value for name, value in settings.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def kept_signals() -> Iterator[None]:
    """The handlers of SIGTERM and SIGINT come back (Prefect's, to cancel a flow), whoever puts in his own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def short_folder(name: str) -> Path:
    """A private folder `<name>-<pid>-…` for unix sockets, whose paths end at 107 bytes.

    Folders of that name whose process is gone (kill -9 tidies nothing) are removed.
    """
    above = Path(tempfile.gettempdir())
    if len(str(above)) > 24:
        above = Path("/tmp")  # noqa: S108  mkdtemp makes what we put there private
    for old in above.glob(f"{name}-*-*"):
        if _is_left_behind(old):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=above))


def _is_left_behind(folder: Path) -> bool:
    pid = folder.name.split("-")[1]
    if not pid.isdigit() or Path(f"/proc/{pid}").exists():
        return False
    try:
        return folder.stat().st_uid == os.getuid()
    except FileNotFoundError:  # another process tidied it away meanwhile
        return False


def processes_of(folder: Path) -> list[Any]:
    """Processes that this one started and whose command line holds `folder`, with all that they started."""
    import psutil

    mine = psutil.Process().children(recursive=True)
    roots = [process for process in mine if _mentions(process, str(folder))]
    return list({each for root in roots for each in [root, *_children(root)]})


def end(processes: list[Any], patience_s: float = 5.0) -> None:
    """Wait for processes to end, and kill those that do not."""
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=patience_s)


def _mentions(process: Any, text: str) -> bool:
    import psutil

    try:
        return any(text in word for word in process.cmdline())
    except psutil.Error:
        return False


def _children(process: Any) -> list[Any]:
    import psutil

    try:
        found: list[Any] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found
