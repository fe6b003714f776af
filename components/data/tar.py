"""Plain tar files written image by image, the same bytes for the same images."""

from __future__ import annotations

import os
import tarfile
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Self

IMAGES_A_SHARD = 1000


class SplitTars:
    """Tars of at most 1,000 images, each of one split: `train-00000.tar`, `train-00001.tar`, `val-00000.tar` …"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: dict[str, int] = {}
        self._open: dict[str, tuple[tarfile.TarFile, BinaryIO]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:  # on a full disk each of them fails; all are closed
            for split in tuple(self._open):
                closing.callback(self._close, split)

    def add(self, split: str, image: bytes) -> tuple[str, int]:
        """Append one image; returns its shard's file name and the offset of its first byte there."""
        number = self._counts.get(split, 0)
        self._counts[split] = number + 1
        if number % IMAGES_A_SHARD == 0:
            self._start(split, number // IMAGES_A_SHARD)
        tar, file = self._open[split]
        # Named by number: an id may be "../../x". Every other field of the header stays at its fixed default.
        member = tarfile.TarInfo(f"{number:08d}")
        member.size = len(image)
        offset_bytes = file.tell() + tarfile.BLOCKSIZE
        tar.addfile(member, BytesIO(image))
        return Path(file.name).name, offset_bytes

    def _start(self, split: str, shard: int) -> None:
        self._close(split)
        file = (self._folder / f"{split}-{shard:05d}.tar").open("wb")
        tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by _close)
        self._open[split] = (tar, file)

    def _close(self, split: str) -> None:
        if split in self._open:
            tar, file = self._open.pop(split)
            with file:
                tar.close()
                file.flush()
                os.fsync(file.fileno())
