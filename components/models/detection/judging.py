"""What a detector knows of an image's regions before any class is named, and the boxes that are left when classes are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from components.abilities import Detections
from components.models.detection.finder import Proposals
from components.models.detection.nms import best


@dataclass(frozen=True, kw_only=True)
class Regions:
    """All that is known of a batch's proposals before any class is named."""

    boxes_BP4: Tensor
    """Refined, in pixels."""
    text_BPD: Tensor
    """Embeddings that names are compared with."""
    image_BPD: Tensor
    """Those of the distilled branch; the same where there is one branch."""
    proposals: Proposals


def detections(
    regions: Regions, scores_BPC: Tensor, *, overlap: float, most: int
) -> list[Detections]:
    """One record an image: its best boxes, at most `most`, without those that overlap a better one of their class."""
    made = []
    for image, real_P in enumerate(regions.proposals.real_BP):
        boxes_P4, scores_PC = regions.boxes_BP4[image, real_P], scores_BPC[image, real_P]
        boxes_N4, scores_N, classes_N = best(boxes_P4, scores_PC, threshold=overlap, most=most)
        made.append(Detections(boxes_N4=boxes_N4, scores_N=scores_N, classes_N=classes_N))
    return made
