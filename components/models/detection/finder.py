"""Where objects may be: backbone, feature pyramid and region proposal network (Ren et al. 2015, arXiv:1506.01497).

It knows no classes: it is taught with base boxes only, and asked for boxes of anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.models.detection.anchors import anchors
from components.models.detection.nms import suppress
from components.models.detection.pyramid import LiteMaps, Maps, Pyramid, ResNetMaps, side
from components.objectives import detection
from components.objectives.boxes import clip, decode, encode
from components.records import Boxes

CODEC = (1.0, 1.0, 1.0, 1.0)
"""Weights of the proposals' offsets."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the network says of a batch: its maps, and for each anchor how likely and where an object is."""

    maps: Maps
    logits_BN: Tensor
    offsets_BN4: Tensor
    anchors_N4: Tensor


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Boxes worth a look, best first; where an image has fewer, its last rows are not real."""

    boxes_BP4: Tensor
    scores_BP: Tensor
    """Objectness in [0, 1]; 0 where not real."""
    real_BP: Tensor


class Finder(nn.Module):
    """Pixels to maps and proposals."""

    def __init__(
        self,
        backbone: ResNetMaps | LiteMaps,
        *,
        image_px: int,
        levels: Sequence[int],
        width: int,
        convs: int,
        scales: Sequence[float],
        ratios: Sequence[float],
    ) -> None:
        super().__init__()
        self.image_px = image_px
        self.backbone = backbone
        self.pyramid = Pyramid(backbone.widths, width, levels)
        layers = [
            layer
            for _ in range(convs)
            for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        ]
        self.read = nn.Sequential(*layers)
        shapes = len(scales) * len(ratios)
        self.objectness = nn.Conv2d(width, shapes, 1)
        self.offsets = nn.Conv2d(width, 4 * shapes, 1)
        for conv in (*self.read[::2], self.objectness, self.offsets):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        self._grids = [
            (side(image_px, level), 2**level, [scale * 2**level for scale in scales], ratios)
            for level in levels
        ]

    def forward(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Found:
        """uint8 images -> what is found in them."""
        return self.search(self.backbone(pixels_BCHW, keys_B))

    def search(self, backbone_maps: Maps) -> Found:
        """The backbone's maps -> what is found in them."""
        maps = self.pyramid(backbone_maps)
        read = [self.read(map_BCHW) for map_BCHW in maps.values()]
        logits = [self.objectness(each).permute(0, 2, 3, 1).flatten(1) for each in read]
        offsets = [
            self.offsets(each).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for each in read
        ]
        return Found(
            maps=maps,
            logits_BN=torch.cat(logits, dim=1),
            offsets_BN4=torch.cat(offsets, dim=1),
            anchors_N4=torch.cat([anchors(*grid) for grid in self._grids]).to(logits[0].device),
        )

    def losses(self, found: Found, boxes: Boxes, count: int) -> dict[str, Tensor]:
        """`objectness` and `proposals`, over `count` anchors an image, half of them objects at most."""
        around = found.anchors_N4.unsqueeze(0)
        assigned_BN = detection.assign(
            around, boxes.corners_BO4, boxes.classes_BO >= 0, low=0.3, high=0.7, best=True
        )
        sampled_BN = detection.sample(assigned_BN, count, 0.5)
        object_BN4 = take(boxes.corners_BO4, assigned_BN.clamp(min=0))
        return {
            "objectness": detection.objectness_loss(found.logits_BN, assigned_BN, sampled_BN),
            "proposals": detection.offset_loss(
                found.offsets_BN4,
                encode(object_BN4, around, CODEC),
                sampled_BN & (assigned_BN >= 0),
                sampled_BN.sum(),
            ),
        }

    def boxes(self, found: Found) -> Tensor:
        """(B, N, 4): the box found at each anchor, within the image."""
        return clip(decode(found.offsets_BN4, found.anchors_N4, CODEC), self.image_px)

    @torch.no_grad()
    def propose(
        self, found: Found, *, candidates: int, proposals: int, threshold: float
    ) -> Proposals:
        """The best `candidates` boxes less those that lie on better ones; at most `proposals` an image."""
        candidates = min(candidates, found.logits_BN.shape[1])
        logits_BN, best_BN = found.logits_BN.detach().float().topk(candidates, dim=1)
        offsets_BN4 = take(found.offsets_BN4.detach().float(), best_BN)
        boxes_BN4 = decode(offsets_BN4, found.anchors_N4[best_BN], CODEC)
        boxes_BN4 = clip(boxes_BN4, self.image_px)
        # A box of less than a pixel is no place to look at.
        real_BN = (boxes_BN4[..., 2:] - boxes_BN4[..., :2] >= 1).all(dim=-1)
        stays_BN = suppress(boxes_BN4, logits_BN.masked_fill(~real_BN, -torch.inf), threshold)
        kept_BP = stays_BN.int().argsort(dim=1, descending=True, stable=True)[:, :proposals]
        real_BP = stays_BN.gather(1, kept_BP)
        return Proposals(
            boxes_BP4=take(boxes_BN4, kept_BP) * real_BP.unsqueeze(-1),
            scores_BP=logits_BN.gather(1, kept_BP).sigmoid() * real_BP,
            real_BP=real_BP,
        )


def take(boxes_BN4: Tensor, index_BR: Tensor) -> Tensor:
    """(B, R, 4): the rows of each image that index_BR names."""
    return boxes_BN4.gather(1, index_BR.unsqueeze(-1).expand(-1, -1, boxes_BN4.shape[-1]))


def sample_regions(proposals: Proposals, boxes: Boxes, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, R) regions the head learns from, a quarter objects at most: boxes, their objects, and which rows are real.

    The second says the object's index, or that it is background.
    """
    # The objects themselves too: early proposals find none.
    boxes_BN4 = torch.cat([proposals.boxes_BP4, boxes.corners_BO4], dim=1)
    real_BN = torch.cat([proposals.real_BP, boxes.classes_BO >= 0], dim=1)
    assigned_BN = detection.assign(
        boxes_BN4, boxes.corners_BO4, boxes.classes_BO >= 0, low=0.5, high=0.5, best=False
    ).masked_fill(~real_BN, detection.IGNORED)
    sampled_BN = detection.sample(assigned_BN, count, 0.25)
    chosen_BR = sampled_BN.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    assigned_BR, sampled_BR = (each.gather(1, chosen_BR) for each in (assigned_BN, sampled_BN))
    return take(boxes_BN4, chosen_BR), assigned_BR, sampled_BR
