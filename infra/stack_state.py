"""What `up` wrote down for a later `status` or `down`, and the lock that lets one at a time write."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.processes import Started, wait_until
from infra.settings import Settings


class StackStateDamaged(RuntimeError):
    """The state file cannot be read."""


class StackBusy(RuntimeError):
    """Another `up` or `down` of the same home does not come to an end."""


@dataclass(frozen=True)
class Entry:
    """One service that was started."""

    pid: int
    began_s: float
    short_lived: bool
    """Whether it ends with its last user, and not with `down`."""

    @property
    def started(self) -> Started:
        return Started(self.pid, self.began_s)


def read(settings: Settings) -> dict[str, Entry]:
    """The services by name, also those that have died since. Empty if none was ever started."""
    path = _path(settings)
    try:
        entries = json.loads(path.read_text())
        return {name: Entry(**entry) for name, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise StackStateDamaged(
            f"{path} is not what `up` writes ({error}). Remove it and run `diptych down`: it finds "
            "the processes of this home without it."
        ) from error


def write(settings: Settings, entries: dict[str, Entry]) -> None:
    """Replace the state: a reader sees the former one or this one."""
    path = _path(settings)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({name: asdict(entry) for name, entry in entries.items()}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(settings: Settings, *, patience_s: float) -> Iterator[None]:
    """Hold the stack for one process; the lock ends with it, so a dead one leaves none behind."""
    with (settings.home / "stack.lock").open("a") as file:
        if not wait_until(lambda: try_lock(file.fileno()), patience_s):
            raise StackBusy(
                f"Another `up` or `down` works on {settings.home} for more than {patience_s:.0f} s. "
                "Wait for it, or end it."
            )
        yield


def try_lock(descriptor: int) -> bool:
    """Take a file's lock for this process alone, if nobody else holds any on it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _path(settings: Settings) -> Path:
    return settings.home / "stack.json"
