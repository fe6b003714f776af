"""The search that contrastive search and MAGIC share: read k likely words ahead, and keep the one that scores best.

The score of word v among the k likeliest is `(1 - alpha) p(v) - alpha max_j cos(h_v, h_j) + beta f(v)`. h are hidden
states, of v after reading it and of all that was read before, the prompt too; f is a softmax over the k words alone.
With top_p below 1 (ours) the k are cut to the fewest whose probabilities reach it: a large k that the first word needs
costs nothing where the next one is sure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from components.abilities import Captions
from components.decoding.logits import BadLogits, likeliest
from components.decoding.options import check

Scorer = Callable[[Any, Tensor], Tensor]
"""(state, candidates_BK) -> (B, K): how well each text with the candidate appended fits, on a softmax's scale."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the three parts of a score count."""

    top_k: int
    alpha: float
    beta: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check(top_k=self.top_k, alpha=self.alpha, beta=self.beta, top_p=self.top_p)


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """One step of the images still being written: their k candidates, and what spoke for each."""

    images_B: Tensor
    """Which rows of the batch these are."""
    candidates_BK: Tensor
    """Token ids, the likeliest first."""
    confidence_BK: Tensor
    """Probability among the whole vocabulary, in [0, 1]."""
    penalty_BK: Tensor
    """Highest cosine with a state before, in [-1, 1]."""
    steering_BK: Tensor
    """Share of the k that the scorer gives, in [0, 1]; 0 where nothing steers, and to words left out."""
    read_BK: Tensor
    """bool: False for words beyond `top_p`, which were not looked at."""
    chosen_B: Tensor
    """Column of the candidate that was taken."""

    @property
    def words_B(self) -> Tensor:
        """The words taken."""
        return self.candidates_BK.gather(1, self.chosen_B[:, None])[:, 0]


Watch = Callable[[Weighed], None]
"""Is told each step, for a log."""


@torch.no_grad()
def search(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None,
    weights: Weights,
    *,
    eos_id: int,
    max_tokens: int,
    prompts: Sequence[Sequence[int]] | None = None,
    scorer: Scorer | None = None,
    watch: Watch | None = None,
) -> list[list[int]]:
    """The ids written for each image. An image whose text has ended leaves the batch."""
    state, logits_BV, read_BTD = model.prefill(pixels_BCHW, keys_B, prompts)
    texts: list[list[int]] = [[] for _ in range(len(logits_BV))]
    images_B = torch.arange(len(texts), device=logits_BV.device)
    for left in reversed(range(max_tokens)):
        ahead = _look_ahead(model, state, logits_BV, weights)
        step = _weigh(ahead, read_BTD, images_B, weights, scorer and scorer(state, ahead.words_BK))
        if watch is not None:
            watch(step)
        goes_on_B = step.words_B != eos_id
        for image, word in zip(
            images_B[goes_on_B].tolist(), step.words_B[goes_on_B].tolist(), strict=True
        ):
            texts[image].append(word)
        if not left or not bool(goes_on_B.any()):
            break
        kept_N = ahead.rows_BK.gather(1, step.chosen_B[:, None])[goes_on_B, 0]
        state, hidden_BD = ahead.state.reorder(kept_N), ahead.hidden_ND[kept_N]
        logits_BV = model.logits(hidden_BD)
        read_BTD = torch.cat([read_BTD[goes_on_B], hidden_BD[:, None]], dim=1)
        images_B = images_B[goes_on_B]
    return texts


@dataclass(frozen=True)
class _Ahead:
    """Every candidate, read."""

    words_BK: Tensor
    probs_BK: Tensor
    read_BK: Tensor
    state: Any
    """Of the words that were read, a row each, as the next."""
    hidden_ND: Tensor

    @property
    def rows_BK(self) -> Tensor:
        """Where each word that was read stands among those."""
        return self.read_BK.flatten().cumsum(0).view(self.read_BK.shape) - 1

    @property
    def hidden_BKD(self) -> Tensor:
        """Zeros for words that were not read."""
        hidden_BKD = self.hidden_ND.new_zeros(*self.read_BK.shape, self.hidden_ND.shape[1])
        hidden_BKD[self.read_BK] = self.hidden_ND
        return hidden_BKD


def _look_ahead(model: Captions, state: Any, logits_BV: Tensor, weights: Weights) -> _Ahead:
    log_probs_BK, words_BK = likeliest(logits_BV, weights.top_k)
    probs_BK = log_probs_BK.exp()
    read_BK = _within(probs_BK, weights.top_p)
    most = int(read_BK.sum(dim=1).max())
    words_BK, probs_BK, read_BK = words_BK[:, :most], probs_BK[:, :most], read_BK[:, :most]
    read = model.step(state.reorder(read_BK.nonzero()[:, 0]), words_BK[read_BK])
    return _Ahead(words_BK, probs_BK, read_BK, *read)


def _within(probs_BK: Tensor, top_p: float) -> Tensor:
    """bool (B, K): the fewest words, likeliest first, whose probabilities reach `top_p`; all of them at 1."""
    if top_p == 1:  # sums of all words round to above 1
        return torch.ones_like(probs_BK, dtype=torch.bool)
    return probs_BK.double().cumsum(dim=1) - probs_BK < top_p


def _weigh(
    ahead: _Ahead, read_BTD: Tensor, images_B: Tensor, weights: Weights, scores_BK: Tensor | None
) -> Weighed:
    penalty_BK = likeness(ahead.hidden_BKD, read_BTD)
    steering_BK = torch.zeros_like(ahead.probs_BK)
    if scores_BK is not None:
        asked_BK = scores_BK.to(ahead.probs_BK).masked_fill(~ahead.read_BK, -math.inf)
        steering_BK = asked_BK.softmax(dim=1)
    total_BK = (
        (1 - weights.alpha) * ahead.probs_BK
        - weights.alpha * penalty_BK
        + weights.beta * steering_BK
    )
    if bool(torch.isnan(total_BK).any()):
        raise BadLogits(
            "Scores of candidates are NaN: hidden states or what steers the search hold no numbers. A part's training "
            "diverged: look at its loss, lower the plan's lr, and train it again."
        )
    return Weighed(
        images_B=images_B,
        candidates_BK=ahead.words_BK,
        confidence_BK=ahead.probs_BK,
        penalty_BK=penalty_BK,
        steering_BK=steering_BK,
        read_BK=ahead.read_BK,
        chosen_B=total_BK.masked_fill(~ahead.read_BK, -math.inf).argmax(dim=1),
    )


def likeness(hidden_BKD: Tensor, read_BTD: Tensor) -> Tensor:
    """(B, K): each candidate's highest cosine with what its row read; a state of zeros is padding and says nothing."""
    cosine_BKT = F.normalize(hidden_BKD.float(), dim=-1) @ F.normalize(read_BTD.float(), dim=-1).mT
    padding_BT = ~read_BTD.any(dim=-1)
    return cosine_BKT.masked_fill(padding_BT[:, None], -1.0).amax(dim=-1)
