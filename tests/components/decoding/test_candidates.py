"""Contrastive search and MAGIC over a real small VirTex: equal to their formula worked out from scratch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.catalog import DECODERS
from components.decoding.candidates import Weighed, likeness
from components.decoding.contrastive import contrastive
from components.decoding.greedy import greedy
from components.decoding.logits import BadLogits
from components.decoding.magic import magic
from components.models.virtex import VirTex
from tests.components.decoding.small_captioner import (
    EOS,
    VOCABULARY,
    half_trained,
    made_images,
    next_logits,
    next_states,
)

TASTE = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5))
"""What a made scorer thinks of each word, whatever came before."""


@pytest.fixture(scope="module")
def model() -> VirTex:
    return half_trained()


def _by_taste(_state: object, candidates_BK: Tensor) -> Tensor:
    return TASTE[candidates_BK]


@torch.no_grad()
def _from_scratch(
    model: VirTex,
    image: Tensor,
    *,
    longest: int,
    top_k: int,
    alpha: float,
    beta: float,
    prompt: tuple[int, ...] = (),
    top_p: float = 1.0,
) -> list[int]:
    """The formula as the paper writes it: one image, no cache, every state computed anew for every candidate."""
    ids = list(prompt)
    while len(ids) < longest + len(prompt):
        probs = torch.softmax(next_logits(model, image, ids), 0)
        words = probs.topk(top_k).indices.tolist()
        enough = list(itertools.accumulate(probs[words].tolist()))
        words = words[: 1 + sum(reached < top_p for reached in enough[:-1])]
        likes = torch.softmax(TASTE[words], 0).tolist()
        before, scores = next_states(model, image, ids), []
        for word, like in zip(words, likes, strict=True):
            state = next_states(model, image, [*ids, word])[-1]
            same = max(F.cosine_similarity(state, other, dim=0).item() for other in before)
            scores.append((1 - alpha) * probs[word].item() - alpha * same + beta * like)
        word = words[max(range(len(words)), key=scores.__getitem__)]
        if word == EOS:
            break
        ids.append(word)
    return ids[len(prompt) :]


@pytest.mark.parametrize("beta", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("top_k", "alpha"), [(3, 0.1), (6, 0.6), (VOCABULARY, 0.9)])
def test_the_cached_batched_search_equals_the_formula(
    model: VirTex, top_k: int, alpha: float, beta: float
) -> None:
    images, weights = made_images(8), {"top_k": top_k, "alpha": alpha}
    wanted = [_from_scratch(model, image, longest=6, beta=beta, **weights) for image in images]
    found = magic(
        model, images, eos_id=EOS, max_tokens=6, beta=beta, scorer=_by_taste, **weights
    )  # fmt: skip
    assert found == wanted


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_words_beyond_top_p_are_neither_read_nor_scored(model: VirTex, top_p: float) -> None:
    images, weights = made_images(8), {"top_k": VOCABULARY, "alpha": 0.2, "beta": 2.0}
    steps: list[Weighed] = []
    wanted = [
        _from_scratch(model, image, longest=6, top_p=top_p, **weights) for image in images
    ]  # fmt: skip
    found = magic(
        model, images, eos_id=EOS, max_tokens=6, top_p=top_p, scorer=_by_taste, watch=steps.append,
        **weights,
    )  # fmt: skip
    assert found == wanted
    for step in steps:
        assert not step.steering_BK[~step.read_BK].any()
        assert step.read_BK.gather(1, step.chosen_B[:, None]).all()
        torch.testing.assert_close(step.steering_BK.sum(dim=1), torch.ones(len(step.images_B)))
    counts = torch.cat([step.read_BK.sum(dim=1) for step in steps])
    assert (counts.min() < counts.max() < VOCABULARY) or (top_p < 0.1 and (counts == 1).all())


def test_logits_are_made_of_the_words_kept_and_of_no_other_candidate(
    model: VirTex, monkeypatch
) -> None:
    read, asked = [], []
    step, logits = model.step, model.logits
    monkeypatch.setattr(
        model, "step", lambda state, words: read.append(len(words)) or step(state, words)
    )
    monkeypatch.setattr(model, "logits", lambda hidden: asked.append(len(hidden)) or logits(hidden))
    contrastive(model, made_images(3), eos_id=-1, max_tokens=4, top_k=5)
    assert read == [15] * 4
    assert asked == [3] * 4  # the first are of `<bos>`, and none follow the last word


def test_prompts_of_several_lengths_count_among_what_was_read(model: VirTex) -> None:
    images, prompts = made_images(4), [[5, 6, 7], [], [6], [7, 7]]
    weights = {"top_k": 6, "alpha": 0.6}
    wanted = [
        _from_scratch(model, image, longest=4, beta=0.0, prompt=tuple(prompt), **weights)
        for image, prompt in zip(images, prompts, strict=True)
    ]
    found = contrastive(model, images, eos_id=EOS, max_tokens=4, prompts=prompts, **weights)
    assert found == wanted
    assert found != contrastive(model, images, eos_id=EOS, max_tokens=4, **weights)


def test_without_alpha_contrastive_search_is_greedy_and_with_it_it_is_not(model: VirTex) -> None:
    images = made_images(12)
    likeliest = greedy(model, images, eos_id=EOS, max_tokens=7)
    for top_k in (1, 4):
        found = contrastive(model, images, eos_id=EOS, max_tokens=7, top_k=top_k, alpha=0.0)
        assert found == likeliest
    assert contrastive(model, images, eos_id=EOS, max_tokens=7, top_k=4, alpha=0.9) != likeliest


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.6])
def test_without_beta_magic_is_contrastive_search_and_asks_no_scorer(
    model: VirTex, alpha: float
) -> None:
    def never(_state: object, _candidates: Tensor) -> Tensor:
        raise AssertionError("asked")

    options = {"eos_id": EOS, "max_tokens": 7, "top_k": 5, "alpha": alpha}
    images = made_images(12)
    plain = contrastive(model, images, **options)
    assert magic(model, images, beta=0.0, scorer=never, **options) == plain
    assert magic(model, images, beta=0.0, **options) == plain


@pytest.mark.parametrize("decoder", ["contrastive", "magic", "nucleus"])
def test_a_batch_writes_what_its_images_write_alone(model: VirTex, decoder: str) -> None:
    images, options = made_images(7), {"eos_id": EOS, "max_tokens": 7, "top_k": 4}
    if decoder == "magic":
        options["scorer"] = _by_taste
    write = DECODERS[decoder]
    alone = [write(model, image[None], **options)[0] for image in images]
    assert write(model, images, **options) == alone
    assert len({len(text) for text in alone}) > 1


def test_each_step_tells_the_three_parts_of_its_scores(model: VirTex) -> None:
    steps: list[Weighed] = []
    images = made_images(6)
    texts = magic(
        model, images, eos_id=EOS, max_tokens=7, top_k=4, alpha=0.2, beta=0.5, scorer=_by_taste,
        watch=steps.append,
    )  # fmt: skip
    read: list[list[int]] = [[] for _ in images]
    for step in steps:
        total = 0.8 * step.confidence_BK - 0.2 * step.penalty_BK + 0.5 * step.steering_BK
        assert torch.equal(total.argmax(dim=1), step.chosen_B)
        torch.testing.assert_close(step.steering_BK.sum(dim=1), torch.ones(len(step.images_B)))
        assert (step.confidence_BK.sum(dim=1) < 1).all()  # of the whole vocabulary, not of the k
        for image, word in zip(step.images_B.tolist(), step.words_B.tolist(), strict=True):
            read[image].append(word)
    assert [list(itertools.takewhile(lambda word: word != EOS, ids)) for ids in read] == texts
    assert len(steps[-1].images_B) < 6  # who has ended is no longer worked on


def test_a_constant_added_to_all_scores_changes_nothing(model: VirTex) -> None:
    images = made_images(8)
    options = {"eos_id": EOS, "max_tokens": 7, "top_k": 4, "beta": 2.0}
    plain = magic(model, images, scorer=_by_taste, **options)
    moved = magic(model, images, scorer=lambda *asked: _by_taste(*asked) + 1000.0, **options)
    assert moved == plain


def test_an_endless_beta_takes_the_scorers_best_of_the_k_and_never_a_word_outside(
    model: VirTex,
) -> None:
    steps: list[Weighed] = []
    magic(
        model, made_images(8), eos_id=EOS, max_tokens=7, top_k=3, beta=1e9, scorer=_by_taste,
        watch=steps.append,
    )  # fmt: skip
    best_anywhere = int(TASTE.argmax())
    assert any((step.candidates_BK != best_anywhere).all() for step in steps)
    for step in steps:
        wanted = TASTE[step.candidates_BK].argmax(dim=1)
        assert torch.equal(step.chosen_B, wanted)


def test_one_candidate_leaves_the_scorer_nothing_to_say(model: VirTex) -> None:
    images, options = made_images(8), {"eos_id": EOS, "max_tokens": 7}
    wanted = greedy(model, images, **options)
    assert magic(model, images, top_k=1, beta=1e9, scorer=_by_taste, **options) == wanted


def test_padding_is_no_state_to_be_like() -> None:
    # The candidate points away from the one state that was read; zeros before it are nearer only as numbers.
    read = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    candidates = torch.tensor([[[-1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    torch.testing.assert_close(likeness(candidates, read), torch.tensor([[-1.0, 0.0, 1.0]]))


def test_magic_needs_a_model_that_steers(model: VirTex) -> None:
    with pytest.raises(TypeError, match="VirTex steers no search"):
        magic(model, made_images(1), eos_id=EOS, max_tokens=4)


def test_scores_that_are_no_numbers_are_refused(model: VirTex) -> None:
    def broken(_state: object, candidates_BK: Tensor) -> Tensor:
        return torch.full(candidates_BK.shape, float("nan"))

    with pytest.raises(BadLogits, match="train it again"):
        magic(model, made_images(1), eos_id=EOS, max_tokens=4, scorer=broken)


@pytest.mark.parametrize(
    ("wrong", "wanted"),
    [
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"alpha": 1.1}, r"alpha=1.1 must be in \[0, 1\]"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"beta": -1.0}, "beta=-1.0 must be at least 0"),
        ({"beta": float("inf")}, "beta=inf"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
    ],
)
def test_a_weight_out_of_range_is_refused(model: VirTex, wrong: dict, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        magic(model, made_images(1), eos_id=EOS, max_tokens=4, scorer=_by_taste, **wrong)
