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
PAIRS = 1 << 16
"""Matching pairs scored at once."""
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
    image_bar_N, text_bar_M = _bars(image_ND, text_MD, image_P, text_P)
    image_rank_N = torch.zeros(len(image_ND), dtype=torch.int64, device=image_ND.device)
    text_rank_M = torch.zeros(len(text_MD), dtype=torch.int64, device=image_ND.device)
    rows = max(CELLS // len(text_MD), 1)
    for start in range(0, len(image_ND), rows):
        block = slice(start, start + rows)
        block_BM = image_ND[block] @ text_MD.T
        over_image_BM, over_text_BM = block_BM >= image_bar_N[block, None], block_BM >= text_bar_M
        # Right answers are no rivals, of themselves or of each other.
        first, last = torch.searchsorted(image_P, torch.tensor([start, start + rows]).to(image_P))
        right = image_P[first:last] - start, text_P[first:last]
        over_image_BM[right] = over_text_BM[right] = False
        # int32: adding booleans up as int64, the default, takes seven times as long.
        image_rank_N[block] = over_image_BM.sum(dim=1, dtype=torch.int32).long()
        text_rank_M += over_text_BM.sum(dim=0, dtype=torch.int32)
    return image_rank_N, text_rank_M


def _bars(
    image_ND: Tensor, text_MD: Tensor, image_P: Tensor, text_P: Tensor
) -> tuple[Tensor, Tensor]:
    """What a rival must reach: the score of the best right answer of each image and each text, less rounding."""
    chunks = zip(image_P.split(PAIRS), text_P.split(PAIRS), strict=True)
    score_P = torch.cat([(image_ND[image] * text_MD[text]).sum(dim=1) for image, text in chunks])
    slack = ROUNDING * image_ND.norm(dim=1).max() * text_MD.norm(dim=1).max()
    return (
        _best(score_P, image_P, len(image_ND)) - slack,
        _best(score_P, text_P, len(text_MD)) - slack,
    )


def _checked(embedding: Tensor, name: str) -> Tensor:
    if embedding.ndim != 2 or not embedding.numel():
        raise MetricInputError(
            f"{name} has shape {tuple(embedding.shape)}; it must be rows of numbers."
        )
    if not (embedding.is_floating_point() and torch.isfinite(embedding).all()):
        raise MetricInputError(
            f"{name} holds NaN, infinity or no floats; look at the model that made it."
        )
    # A largest number of 1, so that neither the cast to float32 nor a product overflows; no order changes.
    largest = embedding.abs().max().clamp(min=torch.finfo(embedding.dtype).tiny)
    return (embedding / largest).float()


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
