"""Indexes ability -> what its encoders answer without the other modality, and the refusal of leaked images."""

from __future__ import annotations

import torch

from components.evaluation.subject import Subject
from components.models.anchors import anchor_id

BATCH = 128


@torch.inference_mode()
def indexing(subject: Subject) -> dict[str, float]:
    """How often the nearest anchor image shows the same concept, beside zero-shot accuracy.

    Raises AnchorLeak if an image under test is an anchor.
    """
    model, images = subject.model, subject.images
    model.refuse_leak(images.rows)
    shown = {anchor_id(row.sample.id): row.sample.concept for row in subject.train.rows}
    ids: list[int] = []
    for block in images.pixels_NCHW.split(BATCH):
        ids += model.ids[model.nearest_anchors(block)].tolist()
    right = [
        shown.get(anchor) == row.sample.concept
        for anchor, row in zip(ids, images.rows, strict=True)
    ]
    return {"nearest_anchor/zero_shot_accuracy": sum(right) / len(right)}
