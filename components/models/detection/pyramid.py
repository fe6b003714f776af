"""From pixels to maps of several strides: a backbone read stage by stage, and a feature pyramid over it.

Level L is a map of stride 2**L (Lin et al. 2017, arXiv:1612.03144).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import ConfigError
from components.models.backbones import IMAGENET_MEAN, IMAGENET_STD, LITE_MEAN, LITE_STD, FrozenSlot
from components.models.lite0 import Lite0
from components.models.resnet import ResNet, resnet50

Maps = dict[int, Tensor]


class ResNetMaps(nn.Module):
    """A residual network that learns, and the map that each of its stages ends with: levels 2, 3, …"""

    def __init__(self, tower: ResNet, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.tower = tower
        self.widths = dict(enumerate(widths, start=2))
        self._ends = {end: level for level, end in enumerate(accumulate(depths), start=2)}
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            value = 255 * torch.tensor(values).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def initialise(self) -> None:
        """Nothing: it learns from random weights, as ViLD's does."""

    def forward(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Maps:
        """uint8 images -> a map a level."""
        x_BCHW, maps = self.tower.stem((pixels_BCHW - self.mean) / self.std), {}
        for number, block in enumerate(self.tower.stages, start=1):
            x_BCHW = block(x_BCHW)
            if number in self._ends:
                maps[self._ends[number]] = x_BCHW
        return maps


class _LiteTower(nn.Module):
    """Lite0's maps of stride 8, 16 and 32 side by side, in the shape a frozen slot remembers."""

    widths: ClassVar[dict[int, int]] = {3: 40, 4: 112, 5: 320}
    _ENDS: ClassVar[dict[int, int]] = {5: 3, 11: 4, 16: 5}
    map_width, pooled_width = 1, 0

    def __init__(self) -> None:
        super().__init__()
        self.lite = Lite0()
        self.load_pretrained = self.lite.load_pretrained

    def map_tokens(self, image_px: int) -> int:
        return sum(width * side(image_px, level) ** 2 for level, width in self.widths.items())

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        x_BCHW, parts = self.lite.stem(x_BCHW), []
        for number, block in enumerate(self.lite.blocks, start=1):
            x_BCHW = block(x_BCHW)
            if number in self._ENDS:
                parts.append(x_BCHW.flatten(1))
        return torch.cat(parts, dim=1), x_BCHW.new_zeros(len(x_BCHW), 0)


class LiteMaps(nn.Module):
    """The frozen pretrained Lite0, read at levels 3, 4 and 5; each image is computed once in a process."""

    def __init__(self, image_px: int) -> None:
        super().__init__()
        self.widths = _LiteTower.widths
        self.slot = FrozenSlot(_LiteTower(), image_px, LITE_MEAN, LITE_STD)
        self._sides = {level: side(image_px, level) for level in self.widths}

    def initialise(self) -> None:
        """Load the pretrained weights. Raises PretrainedMissing."""
        self.slot.initialise()

    def forward(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Maps:
        """uint8 images -> a map a level."""
        flat_BN, _ = self.slot.encode(pixels_BCHW, keys_B)
        sizes = [self.widths[level] * self._sides[level] ** 2 for level in self.widths]
        parts = flat_BN.split(sizes, dim=1)
        return {
            level: part.unflatten(1, (self.widths[level], self._sides[level], self._sides[level]))
            for level, part in zip(self.widths, parts, strict=True)
        }


class Pyramid(nn.Module):
    """Each level sees what lies above it: one width for all, summed from the top down, smoothed by a 3x3 convolution."""

    def __init__(self, widths: dict[int, int], width: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        # A level above the backbone's last is that level, every second cell of it.
        self._within = [level for level in levels if level in widths]
        beyond = [level for level in levels if level > max(widths)]
        if not self._within or len(self._within) + len(beyond) < len(levels):
            raise ConfigError(
                f"levels={self.levels}, and the backbone ends its stages at {', '.join(map(str, widths))}; "
                "choose among these, and any above the last."
            )
        self._read = [level for level in widths if level >= min(self._within)]
        self.across = nn.ModuleDict(
            {str(level): nn.Conv2d(widths[level], width, 1) for level in self._read}
        )
        self.smooth = nn.ModuleDict(
            {str(level): nn.Conv2d(width, width, 3, padding=1) for level in self._within}
        )

    def forward(self, maps: Maps) -> Maps:
        """A map a level, all of one width."""
        above: Tensor | None = None
        made: Maps = {}
        for level in reversed(self._read):
            x_BCHW = self.across[str(level)](maps[level])
            if above is not None:
                x_BCHW = x_BCHW + F.interpolate(above, size=x_BCHW.shape[-2:], mode="nearest")
            above = x_BCHW
            if level in self._within:
                made[level] = self.smooth[str(level)](x_BCHW)
        for level in self.levels:
            if level not in made:
                made[level] = made[level - 1][..., ::2, ::2]
        return {level: made[level] for level in self.levels}


def side(image_px: int, level: int) -> int:
    """Cells along one side of a level's map."""
    for _ in range(level):
        image_px = -(-image_px // 2)
    return image_px


def build_backbone(name: str, image_px: int, widths: Sequence[int]) -> ResNetMaps | LiteMaps:
    """The backbone called "conv" (basic blocks, one a stage, of these widths), "resnet50" or "lite0" (frozen)."""
    if name == "lite0":
        return LiteMaps(image_px)
    if name == "resnet50":
        return ResNetMaps(resnet50(), (256, 512, 1024, 2048), (3, 4, 6, 3))
    depths = [1] * len(widths)
    return ResNetMaps(ResNet(widths, depths, stem=widths[0]), widths, depths)
