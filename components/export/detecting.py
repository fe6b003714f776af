"""A detector as graphs: cut where boxes are chosen, for which of two boxes of one score is the better is no number.

What lies between is `top k` and suppression, which programmes have; and any other boxes can be embedded and judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.export.graph import Graph


def detector(model: Any, pixels: Tensor) -> list[Graph]:
    """`search` finds boxes, `regions` embeds those it is given, `scores` compares embeddings with those of names."""
    found = model.finder(pixels)
    maps = {f"map_{level}": map_BCHW for level, map_BCHW in found.maps.items()}
    search = Graph(
        name="search",
        module=_Search(model),
        inputs={"pixels": pixels[:2]},
        growing={"pixels": (0,)},
        outputs=("objectness", "boxes", *maps),
        probes=((pixels[:1],), (pixels,)),
    )
    boxes_BN4 = model.finder.boxes(found)
    regions = Graph(
        name="regions",
        module=_Regions(model, tuple(found.maps)),
        inputs={**{name: each[:2] for name, each in maps.items()}, "boxes": boxes_BN4[:2, :5]},
        growing={**dict.fromkeys(maps, (0,)), "boxes": (0, 1)},
        outputs=("refined", "by_text", "by_image"),
        probes=(
            (*(each[:1] for each in maps.values()), boxes_BN4[:1, 5:12]),
            (*maps.values(), boxes_BN4[:, 2:5]),
        ),
    )
    return [search, regions, _scores(model, found.maps, boxes_BN4, found.logits_BN.sigmoid())]


def _scores(model: Any, maps: Any, boxes_BN4: Tensor, objectness_BN: Tensor) -> Graph:
    _, by_text, by_image = model.embed_boxes(maps, boxes_BN4[:, :6])
    draw = torch.Generator().manual_seed(2)
    names_CD = F.normalize(torch.randn(5, by_text.shape[-1], generator=draw), dim=-1)
    base_C = torch.tensor([True, False, True, True, False])
    seen = (by_text, by_image, objectness_BN[:, :6])
    return Graph(
        name="scores",
        module=_Scores(model),
        inputs=dict(
            zip(
                ("by_text", "by_image", "objectness", "names", "base"),
                (*(each[:2, :4] for each in seen), names_CD[:3], base_C[:3]),
                strict=True,
            )
        ),
        growing={
            **dict.fromkeys(("by_text", "by_image", "objectness"), (0, 1)),
            **dict.fromkeys(("names", "base"), (0,)),
        },
        outputs=("scores",),
        probes=(
            (*(each[:1] for each in seen), names_CD[:1], base_C[:1]),
            (*(each[:, :3] for each in seen), names_CD, base_C),
        ),
    )


class _Search(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.model.finder(*inputs)
        return found.logits_BN.sigmoid(), self.model.finder.boxes(found), *found.maps.values()


class _Regions(nn.Module):
    def __init__(self, model: Any, levels: Sequence[int]) -> None:
        super().__init__()
        self.model, self._levels = model, levels

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *maps, boxes_BP4 = inputs
        embedded: tuple[Tensor, ...] = self.model.embed_boxes(
            dict(zip(self._levels, maps, strict=True)), boxes_BP4
        )
        return embedded


class _Scores(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.model.judge(*inputs),)
