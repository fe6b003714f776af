"""Sampling from the likeliest words: top-k (Fan et al. 2018) and nucleus (Holtzman et al. 2020, arXiv:1904.09751)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from components.abilities import Captions
from components.decoding.greedy import until
from components.decoding.logits import log_probabilities
from components.decoding.options import check


@torch.no_grad()
def nucleus(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None = None,
    *,
    eos_id: int,
    max_tokens: int,
    prompts: Sequence[Sequence[int]] | None = None,
    top_k: int | None = None,
    top_p: float = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """Drawn ids for each image, without `<bos>`, prompt and `<eos>`; at most `max_tokens`, `<eos>` counted.

    top_k: draw from at most this many words; None: from all.
    top_p: of these, from the fewest whose probabilities reach this sum, in (0, 1].
    temperature: above 0; logits are divided by it first.
    seed: draws follow from it and an image's own pixels, so a batch writes what its images write alone.
    Raises BadOption, BadLogits. The model should be in eval mode.
    """
    check(top_k=top_k, top_p=top_p, temperature=temperature, seed=seed)
    draw_BT = draws(pixels_BCHW, max_tokens, seed)
    state, logits_BV, _ = model.prefill(pixels_BCHW, keys_B, prompts)
    written: list[Tensor] = []
    ended_B = torch.zeros(len(draw_BT), dtype=torch.bool, device=logits_BV.device)
    while True:
        probs_BV, words_BV = likeliest(logits_BV, top_k, top_p, temperature)
        written.append(drawn(probs_BV, words_BV, draw_BT[:, len(written)]))
        ended_B = ended_B | (written[-1] == eos_id)
        if len(written) == max_tokens or bool(ended_B.all()):
            return [until(row, eos_id) for row in torch.stack(written, dim=1).tolist()]
        state, hidden_BD = model.step(state, written[-1])
        logits_BV = model.logits(hidden_BD)


def likeliest(
    logits_NV: Tensor, top_k: int | None, top_p: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Probabilities that are drawn from, likeliest first and 0 where cut off, and their words; both (N, V)."""
    log_probs_NV = log_probabilities(logits_NV.float() / temperature)
    probs_NV, words_NV = log_probs_NV.exp().sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        probs_NV[:, top_k:] = 0
        probs_NV = probs_NV / probs_NV.sum(dim=-1, keepdim=True)
    # The word that reaches the sum is the last one in: without it a sure word would leave nothing.
    before_NV = probs_NV.cumsum(dim=-1) - probs_NV
    return probs_NV.masked_fill(before_NV >= top_p, 0), words_NV


def drawn(probs_NV: Tensor, words_NV: Tensor, draw_N: Tensor) -> Tensor:
    """The word of each row in whose share of the sum the draw, in [0, 1), falls."""
    reached_NV = probs_NV.double().cumsum(dim=-1)
    aim_N1 = draw_N[:, None].to(reached_NV) * reached_NV[:, -1:]
    last_N1 = (probs_NV > 0).sum(dim=-1, keepdim=True) - 1
    place_N1 = torch.searchsorted(reached_NV, aim_N1, right=True).minimum(last_N1)
    return words_NV.gather(1, place_N1)[:, 0]


def draws(pixels_BCHW: Tensor, count: int, seed: int) -> Tensor:
    """(B, count) numbers in [0, 1), float64: a stream for each image, made from the seed and its pixels."""
    rows = []
    for image in pixels_BCHW.cpu():
        digest = hashlib.sha256(seed.to_bytes(8, "little") + image.contiguous().numpy().tobytes())
        made = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "little") >> 1)
        rows.append(torch.rand(count, generator=made, dtype=torch.float64))
    return torch.stack(rows)
