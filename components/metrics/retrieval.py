"""Recall at k between images and texts, both ways, by counting what scores at least as high as the best right answer.

Nothing is sorted and no more than a block of similarities exists at a time. Shape letters: N images · M texts · D shared
width · P pairs that belong together · B rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.metrics.metric import MetricInputError

CELLS = 1 << 23
"""Similarities that exist at once: 32 MiB of float32, and a quarter of it for each comparison."""
ROUNDING = 1e-6
"""Two unit rows whose products differ by less are tied; float32 sums of 512 products differ that much by order."""


def recall(
    image_ND: Tensor,
    text_MD: Tensor,
    matches: Sequence[tuple[int, int]] | Tensor,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Share of images (texts) with a right text (image) among their k nearest: `image_to_text_r1`, …, in [0, 1].

    image_ND, text_MD: embeddings, any scale; nearer means a higher dot product.
    matches: every (image, text) that belongs together. An image may have several texts and a text several images:
        give a caption that two images share once, with two pairs. Everything else is wrong, ties with it included.

    Raises MetricInputError for NaN, infinity, an image or text without a match, or numbers out of range.
    """
    if not ks or min(ks) < 1:
        raise MetricInputError(f"ks={tuple(ks)}; give at least one, each 1 or more.")
    image_rank_N, text_rank_M = ranks(image_ND, text_MD, matches)
    ways = {"image_to_text": image_rank_N, "text_to_image": text_rank_M}
    return {
        f"{way}_r{k}": (rank < k).double().mean().item() for way, rank in ways.items() for k in ks
    }


@torch.no_grad()
def ranks(
    image_ND: Tensor, text_MD: Tensor, matches: Sequence[tuple[int, int]] | Tensor
) -> tuple[Tensor, Tensor]:
    """How many wrong answers score as high as the best right one or higher: (N,) of images and (M,) of texts, int64.

    0 is a hit at 1. A tie counts against the model, so embeddings that are all the same find nothing; scores closer
    than float32 rounding are ties, so the result does not depend on block size or device.
    """
    image_ND, text_MD = _checked(image_ND, "image_ND"), _checked(text_MD, "text_MD")
    if image_ND.shape[1] != text_MD.shape[1]:
        raise MetricInputError(
            f"Images have {image_ND.shape[1]} numbers each and texts {text_MD.shape[1]}; they must share a space."
        )
    image_P, text_P = _pairs(matches, len(image_ND), len(text_MD), image_ND.device)
    score_P = torch.cat(
        [
            (image_ND[image] * text_MD[text]).sum(dim=1)
            for image, text in zip(image_P.split(1 << 16), text_P.split(1 << 16), strict=True)
        ]
    )
    slack = ROUNDING * image_ND.norm(dim=1).max() * text_MD.norm(dim=1).max()
    image_bar_N = _best(score_P, image_P, len(image_ND)) - slack
    text_bar_M = _best(score_P, text_P, len(text_MD)) - slack
    image_rank_N = torch.zeros(len(image_ND), dtype=torch.int64, device=image_ND.device)
    text_rank_M = torch.zeros(len(text_MD), dtype=torch.int64, device=image_ND.device)
    rows = max(CELLS // len(text_MD), 1)
    for start in range(0, len(image_ND), rows):
        block_BM = image_ND[start : start + rows] @ text_MD.T
        over_image_BM = block_BM >= image_bar_N[start : start + rows, None]
        over_text_BM = block_BM >= text_bar_M
        # Right answers are no rivals: blank them with the same comparisons, not with a sum done in another order.
        first, last = torch.searchsorted(image_P, torch.tensor([start, start + rows]).to(image_P))
        mine = image_P[first:last] - start, text_P[first:last]
        over_image_BM[mine] = False
        over_text_BM[mine] = False
        image_rank_N[start : start + rows] = over_image_BM.sum(dim=1)
        text_rank_M += over_text_BM.sum(dim=0)
    return image_rank_N, text_rank_M


def _checked(embedding: Tensor, name: str) -> Tensor:
    if embedding.ndim != 2 or not embedding.numel():
        raise MetricInputError(
            f"{name} has shape {tuple(embedding.shape)}; it must be rows of numbers."
        )
    if not torch.isfinite(embedding).all():
        raise MetricInputError(f"{name} holds NaN or infinity; look at the model that made it.")
    return embedding.float()


def _pairs(
    matches: Sequence[tuple[int, int]] | Tensor, images: int, texts: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Distinct pairs as two columns, sorted by image."""
    pairs_P2 = (
        torch.as_tensor(matches, dtype=torch.int64, device=device).reshape(-1, 2).unique(dim=0)
    )
    for column, rows, kind in ((0, images, "image"), (1, texts, "text")):
        seen = pairs_P2[:, column].unique()
        if len(seen) and not (seen[0] >= 0 and seen[-1] < rows):
            raise MetricInputError(f"matches name {kind}s beyond 0…{rows - 1}.")
        if len(seen) < rows:
            raise MetricInputError(
                f"{rows - len(seen)} of {rows} {kind}s have no match; leave them out or complete matches."
            )
    return pairs_P2[:, 0].contiguous(), pairs_P2[:, 1].contiguous()


def _best(score_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    lowest = torch.full((rows,), -torch.inf, device=score_P.device)
    return lowest.scatter_reduce(0, row_P, score_P, "amax")
