"""Sampling: which words may be drawn and how often, and the same draws for the same seed and image."""

from __future__ import annotations

import pytest
import torch

from components.decoding.greedy import greedy
from components.decoding.nucleus import drawn, draws, likeliest, nucleus
from components.models.virtex import VirTex
from tests.components.decoding.small_captioner import EOS, half_trained, made_images, next_logits

LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.25, 0.05]]).log()


@pytest.fixture(scope="module")
def model() -> VirTex:
    return half_trained()


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (None, 1.0, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.25, 4: 0.05}),
        (2, 1.0, {1: 0.4 / 0.65, 3: 0.25 / 0.65}),
        (None, 0.39, {1: 0.4}),
        (None, 0.41, {1: 0.4, 3: 0.25}),
        (None, 0.7, {1: 0.4, 3: 0.25, 2: 0.2}),
        # Of three words renormalised, two hold 0.65 / 0.85 = 0.76 of the sum.
        (3, 0.75, {1: 0.4 / 0.85, 3: 0.25 / 0.85}),
    ],
)
def test_the_words_kept_are_the_fewest_that_reach_the_sum(top_k, top_p, kept) -> None:
    probs, words = likeliest(LOGITS, top_k, top_p, 1.0)
    found = {
        word: prob
        for word, prob in zip(words[0].tolist(), probs[0].tolist(), strict=True)
        if prob > 0
    }
    assert found == pytest.approx(kept)


def test_temperature_divides_the_logits() -> None:
    probs, words = likeliest(LOGITS, None, 1.0, 0.5)
    squared = LOGITS.exp()[0] ** 2
    wanted = (squared / squared.sum())[words[0]]
    torch.testing.assert_close(probs[0], wanted)


def test_words_are_drawn_as_often_as_they_are_likely() -> None:
    draw = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    probs, words = likeliest(LOGITS.expand(1000, -1), None, 0.8, 1.0)
    counts = torch.bincount(drawn(probs, words, draw), minlength=5)
    # Kept: 0.4, 0.25 and 0.2 of 0.85.
    assert counts.tolist() == [0, 471, 235, 294, 0]


def test_the_highest_draw_takes_the_last_word_that_is_kept() -> None:
    probs, words = likeliest(LOGITS, None, 0.5, 1.0)
    nearly_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert drawn(probs, words, nearly_one).tolist() == [3]
    assert drawn(probs, words, torch.zeros(1, dtype=torch.float64)).tolist() == [1]


def test_over_seeds_the_first_word_follows_the_models_probabilities(model: VirTex) -> None:
    image, seeds = made_images(1), 400
    wanted = torch.softmax(next_logits(model, image[0], []), 0)
    counts = torch.zeros(len(wanted))
    for seed in range(seeds):
        [text] = nucleus(model, image, eos_id=EOS, max_tokens=1, top_p=1.0, seed=seed)
        counts[text[0] if text else EOS] += 1
    error = (wanted * (1 - wanted) / seeds).sqrt()
    assert ((counts / seeds - wanted).abs() < 4 * error + 1e-3).all()
    assert (wanted > 0.02).sum() > 4


def test_the_same_seed_writes_the_same_and_another_does_not(model: VirTex) -> None:
    images = made_images(8)
    first, again, other = (
        nucleus(model, images, eos_id=EOS, max_tokens=7, top_p=1.0, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_draws_belong_to_an_image_and_not_to_its_place(model: VirTex) -> None:
    images = made_images(4)
    turned = draws(images.flip(0), 5, seed=1).flip(0)
    assert torch.equal(draws(images, 5, seed=1), turned)
    assert len(set(draws(images, 1, seed=1)[:, 0].tolist())) == 4


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-3}])
def test_with_no_choice_left_sampling_is_greedy(model: VirTex, options: dict) -> None:
    images = made_images(8)
    wanted = greedy(model, images, eos_id=EOS, max_tokens=7)
    assert nucleus(model, images, eos_id=EOS, max_tokens=7, seed=5, **options) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.01}, {"temperature": 0.0},
        {"temperature": float("nan")}, {"seed": -1},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused(model: VirTex, wrong: dict) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be"):
        nucleus(model, made_images(1), eos_id=EOS, max_tokens=4, **wrong)
