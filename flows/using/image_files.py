"""Files, folders and patterns a person names -> images of a model's size; what cannot be read is told and passed over."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from components.data.transforms import MAX_BYTES, UnreadableImage, decode
from flows.terminal import plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
IMAGES_AT_ONCE = 32


@dataclass
class Told:
    """What went wrong on the way, each said once on stderr."""

    problems: list[str] = field(default_factory=list)

    def tell(self, problem: str) -> None:
        """Say it now, in plain letters: a file's name may hold what steers a terminal."""
        self.problems.append(problem)
        print(f"diptych: {plain(problem)}", file=sys.stderr, flush=True)

    @property
    def exit_code(self) -> int:
        """1 if anything was told."""
        return 1 if self.problems else 0


def find_images(named: Sequence[str], told: Told) -> list[Path]:
    """The files that are meant, each once: a file itself, a folder's images by name, a pattern's (`**` goes deeper)."""
    found: dict[Path, None] = {}
    for name in named:
        try:
            paths = _meant(name)
        except (OSError, ValueError) as error:
            told.tell(f"{name}: {error}.")
            continue
        if not paths:
            told.tell(f"{name}: no such image, or none of {', '.join(SUFFIXES)} there.")
        found.update(dict.fromkeys(paths))
    return list(found)


def read_images(
    paths: Sequence[Path], side_px: int, told: Told
) -> Iterator[tuple[Sequence[Path], list[Path], Tensor]]:
    """Blocks of at most 32 files: the block, those of it that can be read, and their pixels (B, 3, S, S) as uint8.

    The others are told.
    """
    for start in range(0, len(paths), IMAGES_AT_ONCE):
        block = paths[start : start + IMAGES_AT_ONCE]
        read: dict[Path, Tensor] = {}
        for path in block:
            try:
                read[path] = torch.from_numpy(decode(read_bytes(path), side_px))
            except (UnreadableImage, OSError) as error:
                told.tell(f"{path}: {error}")
        empty = torch.empty((0, 3, side_px, side_px), dtype=torch.uint8)
        yield block, list(read), torch.stack(list(read.values())) if read else empty


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises UnreadableImage for a pipe, a device or a file too large, before reading it."""
    if not path.is_file():
        raise UnreadableImage("there is no file of that name.")
    if (size_bytes := path.stat().st_size) > MAX_BYTES:
        raise UnreadableImage(f"{size_bytes} bytes; at most {MAX_BYTES} are read.")
    return path.read_bytes()


def _meant(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return sorted(each for each in path.iterdir() if _is_image(each))
    if path.exists():
        return [path]
    # Path.glob takes no absolute pattern, and no "..".
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
    return [each for each in map(Path, matches) if _is_image(each)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
