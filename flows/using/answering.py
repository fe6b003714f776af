"""The way from image files to shown answers, the same for all that is asked: find, read in blocks, answer, show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flows.using.chosen_version import Chosen
from flows.using.image_files import Told, find_images, read_images
from flows.using.shown import Row, progress, show

Answer = Callable[[Sequence[Path], Tensor], Sequence[Mapping[str, Any]]]
"""One row for each file of a block, from its pixels (B, 3, S, S)."""


def answer_all(
    chosen: Chosen,
    images: Sequence[str],
    answer: Answer,
    columns: Mapping[str, Callable[[Row], str]],
    as_json: bool,
) -> int:
    """Show a row for each image that can be read; 1 if one could not, else 0."""
    told = Told()
    paths = find_images(images, told)
    show(_rows(chosen, paths, answer, told, as_json), columns, as_json)
    return told.exit_code


def image_of(row: Row) -> str:
    """The file a row is about."""
    return str(row["image"])


def _rows(
    chosen: Chosen, paths: Sequence[Path], answer: Answer, told: Told, as_json: bool
) -> Iterator[Row]:
    side_px = chosen.model.batch_spec().image_px
    with progress(chosen.title, len(paths), as_json) as advance, torch.inference_mode():
        for block, read, pixels_BCHW in read_images(paths, side_px, told):
            if read:
                rows = answer(read, pixels_BCHW)
                yield from (
                    {"image": str(path), **row} for path, row in zip(read, rows, strict=True)
                )
            advance(len(block))
