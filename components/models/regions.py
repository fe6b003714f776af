"""Where a family that reads regions has them from: the cells of an image tower's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from components.models.backbones import VisionShape, VisionSlot, build_vision, frozen_vision
from components.models.parts import Part, handed


def region_slot(
    vision: str, image_px: int, widths: Sequence[int], parts: Mapping[str, Part], family: str
) -> VisionSlot:
    """The tower called `vision`, or, for "part", the frozen one that was handed in the slot "vision".

    Raises ConfigError if that is missing or sees nothing, or the name is unknown.
    """
    if vision == "part":
        return frozen_vision(handed(parts, "vision", nn.Module, family), image_px)
    return build_vision(vision, image_px, VisionShape(widths=widths))
