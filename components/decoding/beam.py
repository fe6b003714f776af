"""Beam search over a cache, for a batch of images at once; score = sum of log p / length^alpha.

Whole prefixes move when beams are re-ordered: VirTex v1.2 mended a search that moved only the last word.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from components.abilities import Captions
from components.decoding.logits import log_probabilities

NEVER = float("-inf")


@dataclass
class Pool:
    """The finished texts of one image: the best and its score, and how many there were."""

    wanted: int
    """How many finished texts end the search: the number of beams."""
    best_score: float = NEVER
    best: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, ids: list[int], score: float) -> None:
        """One more finished text; of equal scores the first stays."""
        self.count += 1
        if score > self.best_score:
            self.best, self.best_score = ids, score

    def closed(self, bound: float) -> bool:
        """Whether to stop: enough are finished, or none that is still alive can score above `bound`."""
        return self.count >= self.wanted or self.best_score >= bound


@torch.no_grad()
def beam(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None = None,
    *,
    eos_id: int,
    max_tokens: int,
    beams: int = 5,
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """The best ids for each image, without `<bos>` and `<eos>`; at most `max_tokens`, `<eos>` counted.

    beams: texts kept alive for each image, at least 1 (then it is greedy).
    length_penalty: alpha, at least 0; 0 compares sums, and larger ones favour longer texts.
    Raises ValueError for either out of range, BadLogits for NaN. The model should be in eval mode.
    """
    if beams < 1 or not length_penalty >= 0:
        raise ValueError(
            f"beams={beams} must be at least 1, length_penalty={length_penalty} at least 0."
        )
    state, logits_BV = model.prefill(pixels_BCHW, keys_B)
    images, vocabulary = logits_BV.shape
    state = state.repeat(beams)
    log_probs_NV = log_probabilities(logits_BV).repeat_interleave(beams, dim=0)
    # All beams of an image start equal: only the first may be continued, or K copies of one text would follow.
    sums_BK = torch.full((images, beams), NEVER, device=logits_BV.device)
    sums_BK[:, 0] = 0
    texts_BKT = torch.empty((images, beams, 0), dtype=torch.long, device=logits_BV.device)
    pools = [Pool(beams) for _ in range(images)]

    for length in range(1, max_tokens + 1):
        sums_BKV = sums_BK[..., None] + log_probs_NV.view(images, beams, vocabulary)
        from_BK, word_BK, sums_BK = _collect_and_keep(
            sums_BKV, texts_BKT, pools, eos_id=eos_id, scale=length**-length_penalty
        )
        prefixes_BKT = texts_BKT.gather(1, from_BK[..., None].expand(-1, -1, length - 1))
        texts_BKT = torch.cat([prefixes_BKT, word_BK[..., None]], dim=-1)
        # Sums only fall, so an alive text ends at best with today's sum over the longest length.
        bounds = (sums_BK[:, 0] * max_tokens**-length_penalty).tolist()
        done = [pool.closed(bound) for pool, bound in zip(pools, bounds, strict=True)]
        sums_BK[torch.tensor(done, device=sums_BK.device)] = NEVER
        if length == max_tokens or all(done):
            break
        first_row_B1 = torch.arange(images, device=from_BK.device)[:, None] * beams
        state = state.reorder((first_row_B1 + from_BK).flatten())
        state, logits_NV = model.step(state, word_BK.flatten())
        log_probs_NV = log_probabilities(logits_NV)

    _collect_cut_off(sums_BK, texts_BKT, pools, length_penalty)
    return [pool.best for pool in pools]


def _collect_and_keep(
    sums_BKV: Tensor, texts_BKT: Tensor, pools: list[Pool], *, eos_id: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Texts that end among the K best go to their pool; the K best that do not end stay alive.

    Of each image 2 K continuations are looked at, so that K remain if K of them end. Returns, each (B, K), the beam
    continued, the word added and the sum of log p.
    """
    _, beams, vocabulary = sums_BKV.shape
    looked = min(2 * beams, beams * vocabulary)
    sums_BL, index_BL = sums_BKV.flatten(1).topk(looked, dim=1)
    from_BL, word_BL = index_BL // vocabulary, index_BL % vocabulary
    ends_BL = word_BL == eos_id
    among_best = torch.arange(looked, device=ends_BL.device) < beams
    for image, place in (ends_BL & among_best & (sums_BL > NEVER)).nonzero().tolist():
        text = texts_BKT[image, from_BL[image, place]].tolist()
        pools[image].add(text, sums_BL[image, place].item() * scale)
    alive_BL = sums_BL.masked_fill(ends_BL, NEVER)
    order_BK = alive_BL.argsort(dim=1, descending=True, stable=True)[:, :beams]
    return from_BL.gather(1, order_BK), word_BL.gather(1, order_BK), alive_BL.gather(1, order_BK)


def _collect_cut_off(
    sums_BK: Tensor, texts_BKT: Tensor, pools: list[Pool], length_penalty: float
) -> None:
    """Texts that reached the limit without an end are finished too, as greedy's are."""
    length = texts_BKT.shape[-1]
    for image, pool in enumerate(pools):
        for total, text in zip(sums_BK[image].tolist(), texts_BKT[image].tolist(), strict=True):
            if total > NEVER:
                pool.add(text, total * length**-length_penalty)
