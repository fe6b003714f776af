"""A run's folder: one job for good, and one process at a time that trains in it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components import atomic
from components.models.parts import Origin
from components.training.plan import TrainingPlan

JOB = "job.json"
PARTS = "parts.json"
_ELSEWHERE = ("folder", "shards", "mirror")
"""Where things lie: a moved folder is the same run."""
_LOCK = ".lock"
_PATIENCE_S = 10.0


class JobChanged(ValueError):
    """Another job was trained in this folder before; going on would mix the two."""


class RunBusy(RuntimeError):
    """Another process trains in this folder right now."""


@contextmanager
def held(folder: Path, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Be the only process that trains in `folder`; `RunBusy` if another still does after `patience_s`.

    The lock is the operating system's and dies with its process, so kill -9 leaves none behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        _wait_for(lock.fileno(), folder, patience_s)
        yield


def claim(folder: Path, job: Mapping[str, Any], *, begun: bool) -> None:
    """Write the job beside its checkpoints; if training has `begun`, check that it is the one written before.

    Where things lie (`folder`, `shards`, `mirror`, a part's `path`) may differ, and so may the plan's `PLACEMENT`: a moved folder or
    another number of workers is the same run. Raises `JobChanged` otherwise.
    """
    path = folder / JOB
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if begun and before:
        changed = _differences(_deciding(before), _deciding(job))
        if changed:
            raise JobChanged(
                f"{folder} holds another job: {'; '.join(changed)}. Train the new one in a folder of its own, "
                "or remove this one."
            )
    if before != job:
        atomic.write_json(path, dict(job))


def pin(folder: Path, digests: Mapping[str, str], origins: Mapping[str, Origin]) -> None:
    """Write down which weights the slots were handed when training began, by slot; what `pinned` gives back."""
    held = {slot: [origins[slot].kind, origins[slot].name, digests[slot]] for slot in digests}
    if held and held != _pins(folder):
        atomic.write_json(folder / PARTS, held)


def pinned(folder: Path, origins: Mapping[str, Origin]) -> dict[str, str]:
    """The digests that `pin` wrote for slots that still name the same folder or Hub name; none before it did."""
    return {
        slot: digest
        for slot, (kind, name, digest) in _pins(folder).items()
        if slot in origins and (origins[slot].kind, origins[slot].name) == (kind, name)
    }


def _pins(folder: Path) -> dict[str, list[str]]:
    path = folder / PARTS
    found: dict[str, list[str]] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    )
    return found


def _wait_for(handle: int, folder: Path, patience_s: float) -> None:
    # A replaced worker may start while the one it replaces is still dying.
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise RunBusy(
                    f"Another process trains in {folder}; wait for it, or end it, and start again."
                ) from None
            time.sleep(0.1)
        else:
            return


def _deciding(job: Mapping[str, Any]) -> dict[str, Any]:
    # Read as a plan, so that a field an older job.json lacks has its default.
    return {**job, "plan": TrainingPlan.from_dict(job["plan"]).decides()}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    changed = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += _differences(old, new, f"{within}{key}.")
        elif old != new and within + key not in _ELSEWHERE and key != "path":
            changed.append(f"{within}{key} was {old!r}, is {new!r}")
    return changed
