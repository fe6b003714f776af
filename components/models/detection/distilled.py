"""The proposals that are distilled, and the teacher's embeddings of them: ViLD's offline stage.

The paper trains a proposal network on base classes first and embeds its proposals once. Here the network that is in
training is copied after some steps, and the copy stays fixed: its proposals, and what the teacher says of them, follow
from the image alone, so they are computed when an image is first met and remembered by its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from components.models.detection.finder import Finder
from components.models.detection.pyramid import LiteMaps, Maps
from components.models.detection.teacher import embed_regions
from components.models.frozen_tower import FeatureCache


class Distilled(nn.Module):
    """A fixed copy of a proposal network, and a memory of what the teacher says of its proposals."""

    def __init__(
        self,
        finder: Finder,
        *,
        count: int,
        proposing: dict[str, Any],
        crop_px: int,
        scales: Sequence[float],
        fill: float,
    ) -> None:
        """count: proposals an image. proposing: how many candidates, as `Finder.propose` takes it."""
        super().__init__()
        # A frozen backbone is shared: it stays the same without being copied.
        shared = {id(finder.backbone): finder.backbone}
        copied = deepcopy(finder, shared if isinstance(finder.backbone, LiteMaps) else {})
        self.proposer: Finder = copied.requires_grad_(False).eval()
        self._count = count
        self._proposing = proposing
        self._cropping = {"side_px": crop_px, "scales": scales, "fill": fill}
        self._cache = FeatureCache()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    def fix(self, finder: Finder) -> None:
        """From now on distil the proposals this network makes; all workers must ask, where each holds a slice of it."""
        for name, module in finder.named_children():
            mine = getattr(self.proposer, name)
            if mine is not module:  # writing to a shared tower would make it forget what it saw
                mine.load_state_dict(
                    {key: _whole(value) for key, value in module.state_dict().items()}
                )

    @torch.no_grad()
    def of(
        self, teacher: nn.Module, pixels_BCHW: Tensor, keys_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, M, 4), which of them are real, (B, M) bool, and the teacher's embeddings, (B, M, D)."""
        weights = (*self.proposer.state_dict().values(), *teacher.state_dict().values())
        self._cache.valid_for(tuple((each.data_ptr(), each._version) for each in weights))
        boxes_BM5, embedded_BMD = self._cache.through(
            lambda pixels: self._teach(teacher, pixels), pixels_BCHW, keys_B
        )
        return boxes_BM5[..., :4], boxes_BM5[..., 4] > 0, embedded_BMD

    def _teach(self, teacher: Any, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        boxes_BM5 = torch.cat([self._propose(maps) for maps in self._maps(pixels_BCHW)])
        embedded_BMD = embed_regions(teacher, pixels_BCHW, boxes_BM5[..., :4], **self._cropping)
        return boxes_BM5, embedded_BMD

    def _maps(self, pixels_BCHW: Tensor) -> list[Maps]:
        """The backbone's maps of each image, which must not depend on who else was in the batch: a resumed training
        would not repeat itself."""
        backbone = self.proposer.backbone
        if not isinstance(backbone, LiteMaps):
            return [backbone(pixels_1CHW) for pixels_1CHW in pixels_BCHW.split(1)]
        # It sees to that itself, and one image alone would cost it as much as a chunk.
        maps = backbone(pixels_BCHW)
        return [
            {level: made[at : at + 1] for level, made in maps.items()}
            for at in range(len(pixels_BCHW))
        ]

    def _propose(self, maps: Maps) -> Tensor:
        proposals = self.proposer.propose(self.proposer.search(maps), **self._proposing)
        real_1P1 = proposals.real_BP.float().unsqueeze(-1)
        return torch.cat([proposals.boxes_BP4, real_1P1], dim=-1)[:, : self._count]


def _whole(value: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value
