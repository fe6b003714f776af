"""Residual networks (He et al. 2016, arXiv:1512.03385): small basic-block towers, and ResNet-50."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _conv_norm(inward: int, outward: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inward, outward, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outward))


class Residual(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with a quarter of the width between, around a short cut."""

    def __init__(self, inward: int, outward: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        inner = outward // 4 if bottleneck else outward
        steps = (
            [(inward, inner, 1, 1), (inner, inner, 3, stride), (inner, outward, 1, 1)]
            if bottleneck
            else [(inward, inner, 3, stride), (inner, outward, 3, 1)]
        )
        self.steps = nn.ModuleList(_conv_norm(*step) for step in steps)
        changed = stride != 1 or inward != outward
        self.short_cut = _conv_norm(inward, outward, 1, stride) if changed else nn.Identity()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm whose gain decides how much the block adds at the start of training."""
        return self.steps[-1][1]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        added = x_BCHW
        for number, step in enumerate(self.steps):
            added = step(added if number == 0 else torch.relu(added))
        return torch.relu(added + self.short_cut(x_BCHW))


class ResNet(nn.Module):
    """A stem of stride 4, then one stage per width; every stage but the first halves the side."""

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], *, stem: int, bottleneck: bool = False
    ) -> None:
        super().__init__()
        self.map_width = self.pooled_width = widths[-1]
        self.stride = 4 * 2 ** (len(widths) - 1)
        self.stem = nn.Sequential(
            _conv_norm(3, stem, 7, 2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
        )
        stages, inward = [], stem
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                stride = 2 if number > 0 and block == 0 else 1
                stages.append(Residual(inward, width, stride=stride, bottleneck=bottleneck))
                inward = width
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def map_tokens(self, image_px: int) -> int:
        """How many positions the last map has."""
        side = -(-image_px // self.stride)
        return side * side

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        map_BCHW = self.stages(self.stem(x_BCHW))
        map_BND = map_BCHW.flatten(2).transpose(1, 2)
        return map_BND, map_BND.mean(dim=1)


def resnet50() -> ResNet:
    """23.5 M parameters without the classifier; layer4 is 2048 x 7 x 7 at 224 px."""
    return ResNet((256, 512, 1024, 2048), (3, 4, 6, 3), stem=64, bottleneck=True)
