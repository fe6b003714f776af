"""Masking: BERT's shares, counted; what is never hidden; and the losses over hidden words and over answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from components.objectives.answers import answer_divergence
from components.objectives.masking import IGNORED, hide_words, masked_cross_entropy

MASK, WORDS = 2, range(6, 500)


def _hundred_thousand() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    tokens = torch.randint(6, 500, (5_000, 20))
    tokens[:, 0], tokens[:, -1] = 1, 500
    return tokens, (tokens >= 6) & (tokens < 500)


def test_fifteen_percent_are_chosen_and_of_these_eighty_ten_and_ten() -> None:
    tokens, words = _hundred_thousand()
    read, labels = hide_words(tokens, words, mask_id=MASK, word_ids=WORDS)
    chosen = labels != IGNORED
    assert chosen.sum().item() / words.sum().item() == pytest.approx(0.15, abs=0.01)
    masked, kept = read == MASK, read == tokens
    share = [(part & chosen).sum().item() / chosen.sum().item() for part in (masked, kept)]
    assert share[0] == pytest.approx(0.8, abs=0.01)
    # One random word in 494 is the word itself.
    assert share[1] == pytest.approx(0.1, abs=0.01)
    swapped = read[chosen & ~masked & ~kept]
    assert len(swapped) / chosen.sum().item() == pytest.approx(0.1, abs=0.01)
    assert 6 <= swapped.min() < swapped.max() < 500
    assert len(swapped.unique()) > 400


def test_specials_are_never_chosen_and_what_is_not_chosen_stays() -> None:
    tokens, words = _hundred_thousand()
    read, labels = hide_words(tokens, words, mask_id=MASK, word_ids=WORDS, share=1.0)
    assert torch.equal(labels != IGNORED, words)
    assert torch.equal(read[~words], tokens[~words])
    assert torch.equal(labels[words], tokens[words])


def test_the_same_seed_hides_the_same_words() -> None:
    tokens, words = _hundred_thousand()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(hide_words(tokens, words, mask_id=MASK, word_ids=WORDS)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_loss_is_the_mean_over_hidden_words_and_zero_without_any() -> None:
    logits = torch.randn(4, 7)
    labels = torch.tensor([1, 2, 3, 6])
    wanted = -logits.log_softmax(-1)[range(4), labels].mean()
    torch.testing.assert_close(masked_cross_entropy(logits, labels), wanted)
    none = masked_cross_entropy(logits[:0].requires_grad_(), labels[:0])
    assert none.item() == 0
    none.backward()


def test_answers_are_taught_by_divergence_averaged_over_rows() -> None:
    logits = torch.randn(3, 5)
    targets = torch.tensor([[1.0, 0, 0, 0, 0], [0.3, 0.6, 0, 0, 0], [0, 0, 0, 0, 0]])
    log_p = F.log_softmax(logits, -1)
    by_hand = -log_p[0, 0]
    by_hand = by_hand + 0.3 * (math.log(0.3) - log_p[1, 0]) + 0.6 * (math.log(0.6) - log_p[1, 1])
    torch.testing.assert_close(answer_divergence(logits, targets), by_hand / 3)
