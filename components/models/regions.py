"""Where a family that reads regions has them from, the cells of an image tower's map, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from components.models.backbones import VisionShape, VisionSlot, build_vision, frozen_vision
from components.models.blocks import PostNormBlock
from components.models.parts import Part, handed
from components.objectives.workers import averaged


def region_slot(
    vision: str, image_px: int, widths: Sequence[int], parts: Mapping[str, Part], family: str
) -> VisionSlot:
    """The tower called `vision`, or, for "part", the frozen one that was handed in the slot "vision".

    Raises ConfigError if that is missing or sees nothing, or the name is unknown.
    """
    if vision == "part":
        return frozen_vision(handed(parts, "vision", nn.Module, family), image_px)
    return build_vision(vision, image_px, VisionShape(widths=widths))


class Standardised(nn.Module):
    """Every channel of the regions at mean 0 and deviation 1, by what the first batches of training showed.

    The statistics are buffers: a checkpoint holds them, and a training that is resumed goes on with the same. They are
    those of the whole batch, over all workers: what a model reads must not depend on which of them read it.
    """

    def __init__(self, width: int, batches: int) -> None:
        """batches: how many are looked at before the statistics stand; 0 leaves regions as they come."""
        super().__init__()
        self.batches = batches
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.ones(width))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, regions_BND: Tensor) -> Tensor:
        """The same regions, standardised; in training, looked at first while the statistics do not stand."""
        # Variances of small features vanish in bf16.
        with torch.autocast(regions_BND.device.type, enabled=False):
            regions_BND = regions_BND.float()
            if self.training and self.seen < self.batches:
                self._look(regions_BND.detach().flatten(0, 1))
            return (regions_BND - self.mean) / self.deviation

    @property
    def deviation(self) -> Tensor:
        """(D,) what each channel is divided by; 1 before anything was seen.

        Never less than a tenth of the usual: a channel that was silent so far would drown all others once it speaks.
        """
        deviation_D = (self.square - self.mean**2).clamp(min=0).sqrt()
        # The lower median, by sorting: ONNX has no median.
        median = deviation_D.sort().values[(deviation_D.shape[0] - 1) // 2]
        least = (0.1 * median.double()).clamp(min=1e-3)
        return torch.maximum(deviation_D, least.to(deviation_D.dtype))

    @torch.no_grad()
    def _look(self, regions_ND: Tensor) -> None:
        self.seen += 1
        share = 1 / self.seen
        mean_D, square_D = averaged(torch.stack([regions_ND.mean(0), regions_ND.square().mean(0)]))
        self.mean += (mean_D - self.mean) * share
        self.square += (square_D - self.square) * share


class RegionEncoder(nn.Module):
    """Regions to as many levels as it has layers, each the input of the next (VisualGPT, after M2 Transformer)."""

    def __init__(
        self,
        inward: int,
        width: int,
        heads: int,
        *,
        inner: int,
        layers: int,
        dropout: float,
        places: int,
    ) -> None:
        """places: regions that have a learned vector of their own place; 0 leaves them without order."""
        super().__init__()
        self.inward = nn.Sequential(
            nn.Linear(inward, width), nn.GELU(), nn.Dropout(dropout), nn.LayerNorm(width)
        )
        self.places = nn.Parameter(torch.zeros(places, width)) if places else None
        if self.places is not None:
            nn.init.normal_(self.places, std=0.02)
        self.layers = nn.ModuleList(
            PostNormBlock(width, heads, inner=inner, dropout=dropout, bend=nn.ReLU)
            for _ in range(layers)
        )

    def forward(self, regions_BND: Tensor, mask_BN: Tensor | None = None) -> list[Tensor]:
        """(B, N, D) of every level. mask_BN: bool, False for regions that are padding."""
        x_BND, levels = self.inward(regions_BND), []
        if self.places is not None:
            x_BND = x_BND + self.places
        for layer in self.layers:
            x_BND = layer(x_BND, mask_BN)
            levels.append(x_BND)
        return levels
