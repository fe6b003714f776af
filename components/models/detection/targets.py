"""What the head of a two-stage detector is to say of regions, by the boxes a batch brings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from components.models.detection.finder import Proposals, sample_regions, take
from components.objectives import detection
from components.objectives.boxes import encode
from components.records import Batch, Boxes

BOX_CODEC = (10.0, 10.0, 5.0, 5.0)
"""Weights of the box head's offsets."""


class BoxesMissing(ValueError):
    """A batch without boxes: there is nothing to learn a detector from."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Regions to learn from, and for the N that are real what is right."""

    boxes_BR4: Tensor
    real_BR: Tensor
    classes_N: Tensor
    """int64, or BACKGROUND."""
    offsets_N4: Tensor
    """Of the object from the region; no meaning where there is none."""


def targets(proposals: Proposals, boxes: Boxes, count: int) -> Targets:
    """`count` regions an image, proposals and objects, a quarter objects at most."""
    boxes_BR4, assigned_BR, real_BR = sample_regions(proposals, boxes, count)
    object_BR = assigned_BR.clamp(min=0)
    class_BR = boxes.classes_BO.gather(1, object_BR)
    class_BR = torch.where(assigned_BR >= 0, class_BR, detection.BACKGROUND)
    offsets_BR4 = encode(take(boxes.corners_BO4, object_BR), boxes_BR4, BOX_CODEC)
    return Targets(
        boxes_BR4=boxes_BR4,
        real_BR=real_BR,
        classes_N=class_BR[real_BR],
        offsets_N4=offsets_BR4[real_BR],
    )


def boxes_of(batch: Batch) -> Boxes:
    """The batch's boxes, and one row more that is no box, so that a batch without any needs no other path.

    Raises BoxesMissing.
    """
    if batch.boxes is None:
        raise BoxesMissing(
            "The batch has no boxes; a ViLD's batch_spec asks for them. Sources with boxes: shapes_open, shapes_l1, "
            "emoji_scenes."
        )
    corners_BO4 = F.pad(batch.boxes.corners_BO4, (0, 0, 0, 1))
    classes_BO = F.pad(batch.boxes.classes_BO, (0, 1), value=-1)
    return replace(batch.boxes, corners_BO4=corners_BO4, classes_BO=classes_BO)
