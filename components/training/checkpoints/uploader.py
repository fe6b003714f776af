"""Sends checkpoints to a mirror in a thread of its own: no step waits for it, and no failure of it ends a training."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection
from pathlib import Path

from components import atomic
from components.training.checkpoints import checkpoint
from components.training.checkpoints.mirror import Mirror

STATE = "mirror.json"
"""In the run's folder: the newest step that is safe there, how many sendings failed, and why the last one did."""

_SLOWEST_RETRY_S = 60.0
_LAST_TRIES = 3
"""How often the last checkpoint is tried again once training has ended."""


def problem(folder: Path) -> str:
    """Why the last checkpoint of a run's folder is not on its mirror; empty where it is, or has none."""
    path = folder / STATE
    told: str = json.loads(path.read_text(encoding="utf-8"))["problem"] if path.exists() else ""
    return told


class Uploader:
    """The newest checkpoint that was offered is sent; older ones that never had their turn are left out."""

    def __init__(
        self,
        mirror: Mirror,
        folder: Path,
        *,
        keep: int,
        files: Collection[str],
        pause_s: float = 1.0,
    ) -> None:
        """folder: the run's; files: the names of those of its own files that go with each checkpoint.

        pause_s: before the second try; doubled for each further one.
        """
        self._mirror, self._folder, self._keep, self._files = mirror, folder, keep, files
        self._pause_s = pause_s
        self._turn = threading.Condition()
        self._waiting: tuple[Path, frozenset[int]] | None = None
        self._busy: Path | None = None
        self._closing = self._abandoned = False
        self._sent_step, self._failures, self._problem = -1, 0, ""
        # A daemon: a process that is told to end does not wait for a network.
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def offer(self, path: Path, spare: Collection[int] = ()) -> None:
        """Send this checkpoint when the one before is through; `spare` as in `Mirror.sweep`."""
        with self._turn:
            self._waiting = path, frozenset(spare)
            self._turn.notify_all()

    @property
    def needed(self) -> set[int]:
        """Steps whose files must stay on the local disk until they are sent."""
        with self._turn:
            paths = [self._busy, self._waiting[0] if self._waiting else None]
            return {checkpoint.step_of(path) for path in paths if path is not None}

    @property
    def values(self) -> dict[str, float]:
        """What progress tells: the newest step that is safe there, and how many sendings failed so far."""
        told = {"mirror/failures": float(self._failures)}
        return told | ({"mirror/step": float(self._sent_step)} if self._sent_step >= 0 else {})

    def close(self, patience_s: float | None = None) -> None:
        """Wait until the last one is sent, or was tried several times more; at most `patience_s`.

        What is still being sent then is the last thing it does: whoever trains next has a mirror and files of its own.
        """
        with self._turn:
            self._closing = True
            self._turn.notify_all()
        self._thread.join(patience_s)
        with self._turn:
            self._abandoned = True

    def _run(self) -> None:
        tries_left, pause_s = _LAST_TRIES, self._pause_s
        while (found := self._next()) is not None:
            path, spare = found
            sent = self._try(path, spare)
            if self._abandoned:
                return
            if sent:
                pause_s = self._pause_s
                continue
            tries_left -= self._closing
            with self._turn:
                if self._closing and tries_left <= 0:
                    return
                self._waiting = self._waiting or found
                self._busy = None
            self._rest(pause_s)
            pause_s = min(2 * pause_s, _SLOWEST_RETRY_S)

    def _next(self) -> tuple[Path, frozenset[int]] | None:
        with self._turn:
            self._busy = None
            self._turn.wait_for(lambda: self._waiting is not None or self._closing)
            found, self._waiting = self._waiting, None
            self._busy = found[0] if found else None
            return found

    def _try(self, path: Path, spare: Collection[int]) -> bool:
        try:
            for name in self._files:
                if (self._folder / name).exists():
                    self._mirror.send_file(self._folder / name)
            self._mirror.send(path)
            if not self._abandoned:  # or it would remove the newer ones of another
                self._mirror.sweep(self._keep, spare, checkpoint.step_of(path))
        except Exception as failure:  # whatever a network may raise: training goes on
            self._failures += 1
            self._problem = f"{type(failure).__name__}: {failure}"
            logging.getLogger(__name__).warning("%s: %s", self._mirror.place, self._problem)
        else:
            self._sent_step, self._problem = checkpoint.step_of(path), ""
        self._tell()
        return not self._problem

    def _tell(self) -> None:
        if self._abandoned:
            return
        told = {"step": self._sent_step, "failures": self._failures, "problem": self._problem}
        try:
            atomic.write_json(self._folder / STATE, told)
        except OSError as failure:  # a full disk must not end this thread: sending makes room
            logging.getLogger(__name__).warning("%s: %s", STATE, failure)

    def _rest(self, pause_s: float) -> None:
        with self._turn:
            was_closing = self._closing
            # Asked to end, it tries again at once.
            self._turn.wait_for(lambda: self._closing != was_closing, pause_s)
