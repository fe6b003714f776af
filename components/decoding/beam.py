"""Beam search over a cache, for a batch of images at once; score = sum of log p / length^alpha.

Whole prefixes move when beams are re-ordered: VirTex v1.2 mended a search that moved only the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from components.abilities import Captions
from components.decoding.logits import likeliest
from components.decoding.options import check

NEVER = float("-inf")


@torch.no_grad()
def beam(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None = None,
    *,
    eos_id: int,
    max_tokens: int,
    prompts: Sequence[Sequence[int]] | None = None,
    beams: int = 5,
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """The best ids for each image, without `<bos>`, prompt and `<eos>`; at most `max_tokens`, `<eos>` counted.

    prompts: the ids after `<bos>` that each image's text begins with; they count neither as score nor as length.
    beams: texts kept alive for each image, at least 1 (then it is greedy).
    length_penalty: alpha, at least 0; 0 compares sums, and larger ones favour longer texts.
    Raises BadOption for either out of range, BadLogits for NaN. The model should be in eval mode.
    """
    check(beams=beams, length_penalty=length_penalty)
    state, logits_NV, _ = model.prefill(pixels_BCHW, keys_B, prompts)
    search = Search(logits_NV, beams, eos_id, max_tokens, length_penalty)
    while True:
        # Of each image 2 K continuations are looked at, so that K remain if K of them end.
        index_N, words_N = search.extend(*likeliest(logits_NV, 2 * beams))
        if search.over:
            return search.best()
        state, hidden_ND = model.step(state.reorder(index_N), words_N)
        logits_NV = model.logits(hidden_ND)


@dataclass
class Pool:
    """The finished texts of one image: the best and its score, and how many there were."""

    best_score: float = NEVER
    best: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, ids: list[int], score: float) -> None:
        """One more finished text; of equal scores the first stays."""
        self.count += 1
        if score > self.best_score:
            self.best, self.best_score = ids, score


class Search:
    """The texts alive for each image, their sums of log p, and those that ended."""

    def __init__(
        self, like_BV: Tensor, beams: int, eos_id: int, max_tokens: int, length_penalty: float
    ) -> None:
        self._beams, self._eos_id = beams, eos_id
        self._max_tokens, self._alpha = max_tokens, length_penalty
        images, device = len(like_BV), like_BV.device
        # An image starts with one text; its likeliest words make the K.
        self._sums_BK = torch.zeros((images, 1), device=device)
        self._texts_BKT = torch.empty((images, 1, 0), dtype=torch.long, device=device)
        self._image_B1 = torch.arange(images, device=device)[:, None]
        self._pools = [Pool() for _ in range(images)]
        self.over = False

    def extend(self, log_probs_NL: Tensor, words_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Add the next word to every text: which text each one continues, and its word; each (images x beams,).

        log_probs_NL, words_NL: each text's likeliest words, best first.
        """
        texts = self._texts_BKT.shape[1]
        from_BK, word_BK = self._collect_and_keep(log_probs_NL, words_NL)
        length = self._texts_BKT.shape[-1]
        prefixes_BKT = self._texts_BKT.gather(1, from_BK[..., None].expand(-1, -1, length))
        self._texts_BKT = torch.cat([prefixes_BKT, word_BK[..., None]], dim=-1)
        if length + 1 == self._max_tokens:
            self._collect_cut_off()
        best_alive_B = self._sums_BK[:, 0].tolist()
        done = [self._is_done(*pair) for pair in zip(self._pools, best_alive_B, strict=True)]
        self._sums_BK[torch.tensor(done, device=self._sums_BK.device)] = NEVER
        self.over = all(done)
        return (self._image_B1 * texts + from_BK).flatten(), word_BK.flatten()

    def best(self) -> list[list[int]]:
        """The best finished text of each image."""
        return [pool.best for pool in self._pools]

    def _collect_and_keep(self, log_probs_NL: Tensor, words_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Texts that end among the K best go to their pool; the K best that do not end stay alive."""
        beams, looked = self._beams, log_probs_NL.shape[-1]
        images, texts = self._sums_BK.shape
        sums_BKL = self._sums_BK[..., None] + log_probs_NL.view(images, texts, looked)
        sums_BL, index_BL = sums_BKL.flatten(1).topk(min(2 * beams, texts * looked), dim=1)
        from_BL = index_BL // looked
        word_BL = words_NL.view(images, -1).gather(1, index_BL)
        ends_BL = word_BL == self._eos_id
        ended_BK = (ends_BL & (sums_BL > NEVER))[:, :beams]
        length = self._texts_BKT.shape[-1] + 1
        for image, place in ended_BK.nonzero().tolist():
            text = self._texts_BKT[image, from_BL[image, place]].tolist()
            self._pools[image].add(text, sums_BL[image, place].item() / length**self._alpha)
        alive_BL = sums_BL.masked_fill(ends_BL, NEVER)
        order_BK = alive_BL.argsort(dim=1, descending=True, stable=True)[:, :beams]
        self._sums_BK = alive_BL.gather(1, order_BK)
        return from_BL.gather(1, order_BK), word_BL.gather(1, order_BK)

    def _collect_cut_off(self) -> None:
        """Texts that reached the limit without an end are finished too, as greedy's are; unless enough had ended."""
        for image, pool in enumerate(self._pools):
            if pool.count >= self._beams:
                continue
            sums, texts = self._sums_BK[image].tolist(), self._texts_BKT[image].tolist()
            for total, text in zip(sums, texts, strict=True):
                if total > NEVER:
                    pool.add(text, total / self._max_tokens**self._alpha)
        self._sums_BK.fill_(NEVER)

    def _is_done(self, pool: Pool, best_alive: float) -> bool:
        """Enough texts ended, or none still alive can end better: sums only fall, and no text gets longer than that."""
        bound = best_alive / self._max_tokens**self._alpha
        return pool.count >= self._beams or pool.best_score >= bound
