"""The head over regions: from a region's small map to an embedding in the teacher's space, and to a better box."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class RegionBranch(nn.Module):
    """Convolutions, two or so full layers, and a projection to the shared space."""

    def __init__(
        self, inward: int, *, bins: int, convs: int, layers: int, width: int, norm: bool, embed: int
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                step
                for _ in range(convs)
                for step in (
                    nn.Conv2d(inward, inward, 3, padding=1, bias=not norm),
                    *([nn.BatchNorm2d(inward)] if norm else []),
                    nn.ReLU(),
                )
            )
        )
        sizes = [inward * bins * bins, *[width] * layers]
        self.layers = nn.Sequential(
            *(
                step
                for one, other in pairwise(sizes)
                for step in (
                    nn.Linear(one, other, bias=not norm),
                    *([nn.BatchNorm1d(other)] if norm else []),
                    nn.ReLU(),
                )
            )
        )
        self.projection = nn.Linear(sizes[-1], embed)

    def hidden(self, regions_NCSS: Tensor) -> Tensor:
        """(N, width): what the box head reads."""
        return self.layers(self.convs(regions_NCSS).flatten(1))

    def embed(self, hidden_ND: Tensor) -> Tensor:
        """(N, embed), rows of length 1."""
        return F.normalize(self.projection(hidden_ND), dim=-1)

    def forward(self, regions_NCSS: Tensor) -> Tensor:
        """(N, embed), rows of length 1."""
        return self.embed(self.hidden(regions_NCSS))
