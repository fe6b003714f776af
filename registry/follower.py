"""Carries a training's progress file to a tracker while it grows, and never stands in the training's way.

The file is the truth: what could not be delivered stays in it, and the next follower of the same file delivers it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from components import atomic
from components.training import progress
from components.training.progress import Progress

POLL_S = 0.5
PATIENCE_S = 15.0
"""How long the end of a training waits for a tracker that does not answer."""
_SLOWEST_RETRY_S = 15.0


Deliver = Callable[[Sequence[Progress]], None]


class Follower:
    """What was delivered of one progress file. Steps that a resumed training does again are delivered once."""

    def __init__(self, path: Path, receiver: str, deliver: Deliver) -> None:
        self._path = path
        self._receiver = receiver
        self._deliver = deliver
        self._memory = path.with_name(f"{path.name}.{receiver}.json")
        self._steps = _remembered(self._memory)
        self._seen: tuple[int, int] | None = None
        self._busy = threading.Lock()
        self.problem: Exception | None = None
        """Why the last delivery failed; None once one succeeded."""

    @property
    def unsynced(self) -> int:
        """How many reports of the file were not delivered yet."""
        return len(self._waiting())

    def sync(self) -> int:
        """Deliver what is new and remember it; the number of reports. Raises what the delivery raises."""
        with self._busy:
            # Looked at before it is read: a line that is added meanwhile is a change at the next look.
            look = self._look()
            waiting = self._waiting() if self._seen is None or self._seen != look else []
            if waiting:
                self._deliver(waiting)
                for line in waiting:
                    self._steps.update(dict.fromkeys(line.values, line.step))
                atomic.write_json(self._memory, self._steps)
            self._seen = look
        self.problem = None
        return len(waiting)

    def try_sync(self) -> bool:
        """`sync`, with a failure kept in `problem` instead of raised: whatever it is, the training goes on."""
        try:
            self.sync()
        except Exception as failure:
            self._seen = None
            self.problem = failure
        return self.problem is None

    def _waiting(self) -> list[Progress]:
        lines = (_without(line, self._steps) for line in progress.read(self._path))
        return [line for line in lines if line.values]

    def _look(self) -> tuple[int, int] | None:
        # A resumed training replaces the file by a shorter one, so its size alone would not tell.
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size


@contextmanager
def following(
    follower: Follower, *, poll_s: float = POLL_S, patience_s: float = PATIENCE_S
) -> Iterator[Follower]:
    """Deliver in a thread while the body runs, and once more at its end, waiting at most `patience_s`.

    Nothing is raised for a tracker that is away: look at `unsynced` and `problem` afterwards.
    """
    stop = threading.Event()
    thread = threading.Thread(
        target=_deliver_until, args=(follower, stop, poll_s), name="follower", daemon=True
    )
    thread.start()
    try:
        yield follower
    finally:
        stop.set()
        thread.join(patience_s)


def _deliver_until(follower: Follower, stop: threading.Event, poll_s: float) -> None:
    pause_s = poll_s
    while not stop.wait(pause_s):
        delivered = follower.try_sync()
        pause_s = poll_s if delivered else min(2 * pause_s, _SLOWEST_RETRY_S)
    follower.try_sync()


def _without(line: Progress, steps: Mapping[str, int]) -> Progress:
    new = {name: value for name, value in line.values.items() if line.step > steps.get(name, -1)}
    return Progress(step=line.step, values=new, time=line.time)


def _remembered(memory: Path) -> dict[str, int]:
    # Lost or damaged memory costs a second delivery, which the tracker knows by step and time.
    try:
        return {str(name): int(step) for name, step in json.loads(memory.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
