"""Files that a command is asked to write, looked at before it computes: a wrong name should not cost minutes, nor a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path


class OutputRefused(ValueError):
    """A place that cannot or should not be written; the message names the option."""


def refuse_unwritable(outputs: Mapping[str, Path | None], inputs: Sequence[Path]) -> None:
    """Look at each place and write nothing. Raises OutputRefused.

    outputs: option -> the file it names, None where it was not given.
    inputs: files that are read, which no output may replace.
    """
    taken = {path.resolve() for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.resolve() in taken:
            raise OutputRefused(
                f"{option} {path} would replace a file of this command; give another name."
            )
        taken.add(path.resolve())
        # Writing ends with a rename, which would put a file where a device or a link was.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OutputRefused(
                f"{option} {path} is a folder, a link or a device; give the name of a file."
            )
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise OutputRefused(
                f"{option} {path} cannot be written: {folder} is no folder that is writable here; give another."
            )
