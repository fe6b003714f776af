"""Why a training in other processes ended, where trying again would end the same way: told through the run's folder."""

from __future__ import annotations

import json
from pathlib import Path

from components import atomic

FAILURE = "failure.json"
"""In the run's folder."""

FINAL = (ValueError, ArithmeticError, LookupError, TypeError, FileNotFoundError)
"""The same bytes would give the same error. What a lost peer or a full disk raises (RuntimeError, OSError) may pass."""


class TrainingFailed(RuntimeError):
    """Training in another process ended with an error; `kind` is its class's name there.

    final: whether trying again would end the same way.
    """

    def __init__(self, kind: str, message: str, *, final: bool = True) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.final = final


def tell(folder: Path, error: Exception) -> None:
    """Leave the reason for whoever waits."""
    kept = {"kind": type(error).__name__, "message": str(error)}
    atomic.write_json(folder / FAILURE, kept)


def is_told(folder: Path) -> bool:
    """Whether a reason was left."""
    return (folder / FAILURE).exists()


def forget(folder: Path) -> None:
    """Begin anew."""
    (folder / FAILURE).unlink(missing_ok=True)


def raise_told(folder: Path) -> None:
    """`TrainingFailed` if a reason was left."""
    file = folder / FAILURE
    if file.exists():
        raise TrainingFailed(**json.loads(file.read_text(encoding="utf-8")))
