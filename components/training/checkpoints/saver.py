"""Checkpoints written beside the training: a step waits for the copy into host memory, a thread does the rest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.records import Checkpoint
from components.training.checkpoints import checkpoint
from components.training.checkpoints.snapshot import HostMemory, Snapshot

Take = Callable[[HostMemory | None], Snapshot | None]
"""Makes a snapshot whose tensors are copied into that memory; without one, helps the worker that has one and makes none."""


class Saver:
    """One checkpoint at a time is on its way to the disk.

    The next one waits for it: were it left out, the disk's speed would decide how much a crash costs, and a slow disk
    would be seen by nobody. So at most one copy of the training is in memory.
    """

    def __init__(self, folder: Path, on_saved: Callable[[Checkpoint], None]) -> None:
        """on_saved: called in the thread once a checkpoint is on disk."""
        self._folder, self._on_saved = folder, on_saved
        self._memory = HostMemory()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, take: Take) -> None:
        """Take a snapshot and begin to write it. Raises what ended the checkpoint before, if it did not succeed."""
        self.settle()
        taken = take(self._memory)
        assert taken is not None, "there is memory for it"
        self._thread = threading.Thread(target=self._write, args=(taken,), name="checkpoint")
        self._thread.start()

    def settle(self) -> None:
        """Wait for the checkpoint under way, and raise what ended it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _write(self, taken: Snapshot) -> None:
        try:
            self._on_saved(checkpoint.put(self._folder, taken))
        except BaseException as failure:
            self._failure = failure


@contextmanager
def saving(saver: Saver) -> Iterator[None]:
    """When the block is left, however it is, the last checkpoint is on disk."""
    try:
        yield
    except BaseException:
        try:
            saver.settle()
        except Exception:  # the block's own error is the one to raise
            logging.getLogger(__name__).exception("the last checkpoint was not saved")
        raise
    saver.settle()
