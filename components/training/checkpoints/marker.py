"""The marker of a checkpoint folder: written last, it names every file with size and sha256, and seals itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components import atomic

MARKER = "MANIFEST.json"


class CheckpointMissing(FileNotFoundError):
    """There is no checkpoint where one was asked for."""


class CheckpointDamaged(ValueError):
    """A checkpoint that is not what was saved, or that this code cannot build; the message names the file."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(
            f"Checkpoint {file.parent}: {file.name} is damaged: {problem}. It will not be used; "
            "training the run again goes on from its last good checkpoint."
        )
        self.file = file
        self.problem = problem


def write(folder: Path, about: Mapping[str, Any], files: Sequence[str]) -> None:
    """Seal a folder whose `files` are on disk; `about` is kept in the marker. Equal content gives equal bytes."""
    measured = {name: _measure(folder / name) for name in files}
    atomic.write_bytes(folder / MARKER, _sealed({**about, "files": measured}))


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """What the marker holds and its own sha256, the files not looked at.

    Raises `CheckpointMissing` without a folder, `CheckpointDamaged` for a marker that is missing or altered.
    """
    if not folder.is_dir():
        raise CheckpointMissing(
            f"There is no checkpoint {folder}; train its run again to make one."
        )
    marker = folder / MARKER
    if not marker.is_file():
        raise CheckpointDamaged(marker, "it is missing, so the checkpoint was never finished")
    data = marker.read_bytes()
    try:
        content = json.loads(data)
        del content["seal"]
        intact = _sealed(content) == data
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamaged(marker, f"it cannot be read ({error})") from error
    if not intact:
        raise CheckpointDamaged(marker, "its content does not match its own sha256")
    return content, hashlib.sha256(data).hexdigest()


def check_files(folder: Path, content: Mapping[str, Any]) -> None:
    """Compare every file with what the marker says of it; raise `CheckpointDamaged` naming the first that differs."""
    for name, expected in content["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointDamaged(file, "it is missing")
        found = _measure(file)
        if found != expected:
            problem = f"it holds {_say(found)}, saved were {_say(expected)}"
            raise CheckpointDamaged(file, problem)


def _sealed(content: Mapping[str, Any]) -> bytes:
    """Canonical JSON with the sha256 of the rest of it, so that a changed byte anywhere is seen."""
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "seal": seal}, sort_keys=True, indent=1) + "\n").encode()


def _measure(file: Path) -> dict[str, Any]:
    return {"sha256": atomic.sha256_file(file), "size_bytes": file.stat().st_size}


def _say(measured: Mapping[str, Any]) -> str:
    return f"{measured['size_bytes']} bytes with sha256 {measured['sha256'][:12]}…"
