"""A file that an installed package carries: found without importing the package, and held against its sha256."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path


class PretrainedMissing(FileNotFoundError):
    """Pretrained weights are not installed, or are not the ones this code was checked with."""


def packaged_file(
    package: str, name: str, sha256: str, missing: Callable[[str], PretrainedMissing]
) -> Path:
    """Where `name` of an installed package lies, its bytes those this code was checked with.

    missing: makes the error from what is wrong, which says what brings the file. Raises it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise missing("the package that carries its weights is not installed")
    path = Path(spec.origin).parent / name
    if not path.is_file():
        raise missing(f"{path} is not there")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise missing(f"{path} has sha256 {found}, and this code was checked with {sha256}")
    return path
