"""How far a training is: one JSON line a report in `progress.jsonl`, written by rank 0 and read by whoever watches.

A line is on disk before the checkpoint of its step, and a resumed training drops the lines beyond its checkpoint; so
the file holds each step once, in order, however often the training was killed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from components import atomic

FILE = "progress.jsonl"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report of a training."""

    step: int
    """Finished steps."""
    values: Mapping[str, float]
    time: float
    """When it was reported, in seconds since 1970; for people, no number depends on it."""


def append(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Add a line and wait until it is on disk."""
    line = Progress(step=step, values=dict(values), time=time.time())
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(line), sort_keys=True, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Progress]:
    """All whole lines; a last line that a crash cut short is left out. No file is no lines."""
    return list(_whole_lines(path.read_bytes())) if path.exists() else []


def drop_beyond(path: Path, step: int) -> None:
    """Forget what was reported after `step`: those steps are done again."""
    if path.exists():
        kept = [line for line in read(path) if line.step <= step]
        lines = (json.dumps(asdict(line), sort_keys=True) + "\n" for line in kept)
        atomic.write_text(path, "".join(lines))


class Follower:
    """Hands on each line once and in order, also where a resumed training writes steps anew."""

    def __init__(self, path: Path, on_line: Callable[[Progress], None]) -> None:
        self._path, self._on_line = path, on_line
        self._step = 0
        self._inode, self._read_bytes = -1, 0

    def poll(self) -> None:
        """Hand on what is new; only that is read, until a resumed training writes the file anew."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_ino != self._inode or about.st_size < self._read_bytes:
                self._inode, self._read_bytes = about.st_ino, 0
            file.seek(self._read_bytes)
            data = file.read()
        for line in _whole_lines(data):
            if line.step > self._step:
                self._on_line(line)
                self._step = line.step
        self._read_bytes += data.rfind(b"\n") + 1


def _whole_lines(data: bytes) -> Iterator[Progress]:
    for line in data.splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield Progress(**json.loads(line))
