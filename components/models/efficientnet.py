"""EfficientNet (Tan & Le 2019, arXiv:1905.11946) by width and depth, as ALIGN uses it: without the last convolution.

Laid out as transformers' AlignVisionModel, so that weights can be exchanged. The pretrained, frozen one is `lite0.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from components.models.lite0 import STAGES


def channels(base: int, width: float) -> int:
    """`base` channels scaled by `width` to the nearest multiple of 8, never by more than a tenth less.

    >>> [channels(320, width) for width in (0.25, 1.0, 2.0, 4.3)]
    [80, 320, 640, 1376]
    """
    scaled = base * width
    nearest = max(8, int(scaled + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * scaled else nearest


class Squeeze(nn.Module):
    """Each channel weighed by what all channels are on average (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, inner, 1)
        self.expand = nn.Conv2d(inner, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)
        weight_BC11 = self.expand(nn.functional.silu(self.reduce(mean_BC11)))
        return x_BCHW * weight_BC11.sigmoid()


class Block(nn.Module):
    """Widen, convolve each channel, weigh channels, narrow; the later blocks of a stage add their input."""

    def __init__(
        self,
        inward: int,
        outward: int,
        *,
        kernel: int,
        stride: int,
        expand: int,
        first: bool,
        square: bool,
        drop: float,
    ) -> None:
        """square: pad a strided convolution on all sides, not more to the right and below. drop: chance in training
        that an image passes the block by."""
        super().__init__()
        inner = inward * expand
        self.added, self.drop = not first, drop
        self.expand = _norm(nn.Conv2d(inward, inner, 1, bias=False)) if expand > 1 else None
        half = kernel // 2
        less = half if square else half - 1
        # Only with a stride do the sides differ: TensorFlow's "same" leaves the odd pixel to the right and below.
        self.pad = nn.ZeroPad2d((less, half, less, half) if stride > 1 else half)
        self.depthwise = _norm(
            nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False), bend=True
        )
        self.squeeze = Squeeze(inner, max(1, inward // 4))
        self.narrow = _norm(nn.Conv2d(inner, outward, 1, bias=False), bend=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = x_BCHW if self.expand is None else self.expand(x_BCHW)
        out = self.narrow(self.squeeze(self.depthwise(self.pad(out))))
        return x_BCHW + self._kept(out) if self.added else out

    def _kept(self, out_BCHW: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016, arXiv:1603.09382)."""
        if not self.training or not self.drop:
            return out_BCHW
        kept_B = torch.rand(len(out_BCHW), device=out_BCHW.device) >= self.drop
        return out_BCHW * kept_B.view(-1, 1, 1, 1) / (1 - self.drop)


class EfficientNet(nn.Module):
    """The map of the last stage (stride 32), and its mean."""

    def __init__(
        self, *, width: float, depth: float, drop: float = 0.0, square: Collection[int] = ()
    ) -> None:
        """width, depth: factors on channels and blocks of the smallest network, B0.

        drop: chance that an image passes the last block by; that of earlier ones rises to it.
        square: numbers of strided blocks that pad on all sides, where the map's side is odd.
        """
        super().__init__()
        self.map_width = self.pooled_width = channels(STAGES[-1][-1], width)
        stem, inward = channels(32, width), channels(32, width)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.stem = _norm(nn.Conv2d(3, stem, 3, stride=2, bias=False))
        blocks: list[Block] = []
        total = sum(math.ceil(depth * repeats) for repeats, *_ in STAGES)
        for repeats, kernel, stride, expand, base in STAGES:
            outward = channels(base, width)
            for number in range(math.ceil(depth * repeats)):
                block = Block(
                    inward, outward, kernel=kernel, stride=stride if number == 0 else 1,
                    expand=expand, first=number == 0, square=len(blocks) in square,
                    drop=drop * len(blocks) / total,
                )  # fmt: skip
                blocks.append(block)
                inward = outward
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def map_tokens(self, image_px: int) -> int:
        """How many positions the last map has, for a side that is a multiple of 32."""
        side = -(-image_px // 32)
        return side * side

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        map_BCHW = self.blocks(self.stem(self.pad(x_BCHW)))
        map_BND = map_BCHW.flatten(2).transpose(1, 2)
        return map_BND, map_BND.mean(dim=1)


def _norm(conv: nn.Conv2d, *, bend: bool = True) -> nn.Sequential:
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-3)
    return nn.Sequential(conv, norm, nn.SiLU() if bend else nn.Identity())
