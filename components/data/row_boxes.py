"""The boxes of a batch's rows, in the pixels of the batch's images: classes that training knows, novel ones left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.records import Box, Boxes, Row


def base_classes(rows: Sequence[Row]) -> list[str]:
    """Names of all classes whose boxes training may know, sorted."""
    return sorted({box.label for row in rows for box in row.sample.boxes if not box.novel})


def in_prompts(names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Each name in each prompt, those of one name side by side.

    >>> in_prompts(["cat", "dog"], ["{}", "a {}"])
    ['cat', 'a cat', 'dog', 'a dog']
    """
    return [prompt.replace("{}", name) for name in names for prompt in prompts]


def boxes_of(
    rows: Sequence[Row],
    mirrored: Sequence[bool],
    side_px: int,
    classes: Sequence[str],
    names: tuple[Tensor, Tensor],
) -> Boxes:
    """Boxes of `classes` in images cut to `side_px`; one that the cut leaves empty is dropped.

    names: the classes in their prompts, as tokens_CT and lengths_C.
    """
    number = {name: index for index, name in enumerate(classes)}
    found = [
        [
            (number[box.label], corners)
            for box in row.sample.boxes
            if box.label in number and not box.novel and (corners := cut(box, row, side_px, turned))
        ]
        for row, turned in zip(rows, mirrored, strict=True)
    ]
    most = max(map(len, found), default=0)
    corners_BO4 = torch.zeros(len(rows), most, 4)
    classes_BO = torch.full((len(rows), most), -1)
    for index, boxes in enumerate(found):
        for place, (class_, corners) in enumerate(boxes):
            corners_BO4[index, place] = torch.tensor(corners)
            classes_BO[index, place] = class_
    return Boxes(
        corners_BO4=corners_BO4,
        classes_BO=classes_BO,
        class_tokens_CT=names[0],
        class_lengths_C=names[1],
    )


def cut(box: Box, row: Row, side_px: int, mirrored: bool) -> tuple[float, ...] | None:
    """A box after the image's shorter side was made `side_px` and its middle kept (`transforms.decode`)."""
    scale = side_px / min(row.width_px, row.height_px)
    aside, above = ((side * scale - side_px) / 2 for side in (row.width_px, row.height_px))
    left, right = (
        min(max(x * scale - aside, 0.0), float(side_px)) for x in (box.left_px, box.right_px)
    )
    top, bottom = (
        min(max(y * scale - above, 0.0), float(side_px)) for y in (box.top_px, box.bottom_px)
    )
    if right <= left or bottom <= top:
        return None
    return (
        (side_px - right, top, side_px - left, bottom) if mirrored else (left, top, right, bottom)
    )
