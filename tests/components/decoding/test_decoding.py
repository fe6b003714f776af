"""Greedy and beam search over a real small VirTex: equal to each other, to no cache, and to looking at every text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from components.decoding.beam import beam
from components.decoding.greedy import greedy
from components.decoding.logits import BadLogits
from components.models.virtex import VirTex
from tests.components.decoding.small_captioner import EOS, half_trained, made_images, next_logits


@pytest.fixture(scope="module")
def model() -> VirTex:
    return half_trained()


@torch.no_grad()
def _log_p(model: VirTex, image: Tensor, ids: list[int]) -> float:
    """log p of a whole text, `<eos>` written out, in nats."""
    return sum(
        torch.log_softmax(next_logits(model, image, ids[:at]), 0)[token].item()
        for at, token in enumerate(ids)
    )


@torch.no_grad()
def _greedy_from_scratch(model: VirTex, image: Tensor, max_tokens: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < max_tokens:
        token = int(next_logits(model, image, ids).argmax())
        if token == EOS:
            break
        ids.append(token)
    return ids


def test_the_models_under_test_write_texts_of_several_lengths(model: VirTex) -> None:
    texts = greedy(model, made_images(12), eos_id=EOS, max_tokens=8)
    assert len({len(text) for text in texts}) > 2
    assert len({tuple(text) for text in texts}) > 6


@pytest.mark.parametrize("longest", [2, 8])
def test_cached_greedy_equals_recomputing_every_prefix(model: VirTex, longest: int) -> None:
    images = made_images(12)
    wanted = [_greedy_from_scratch(model, image, longest) for image in images]
    assert greedy(model, images, eos_id=EOS, max_tokens=longest) == wanted


@pytest.mark.parametrize("longest", [2, 8])
def test_a_beam_of_one_is_greedy(model: VirTex, longest: int) -> None:
    images = made_images(12)
    assert beam(model, images, eos_id=EOS, max_tokens=longest, beams=1) == greedy(
        model, images, eos_id=EOS, max_tokens=longest
    )


@pytest.mark.parametrize("decoder", [greedy, beam])
def test_a_batch_writes_what_its_images_write_alone(model: VirTex, decoder) -> None:
    images = made_images(7)
    alone = [decoder(model, image[None], eos_id=EOS, max_tokens=8)[0] for image in images]
    assert decoder(model, images, eos_id=EOS, max_tokens=8) == alone


def test_a_beam_as_wide_as_the_space_finds_the_best_of_all_texts() -> None:
    vocabulary, eos, longest = 4, 3, 4
    # Trained so little that the best text differs with alpha, from the empty one to three words.
    model, images = half_trained(vocabulary, longest, steps=16), made_images(6)
    space = [
        [*text, eos]
        for length in range(longest)
        for text in itertools.product(range(3), repeat=length)
    ] + [list(text) for text in itertools.product(range(3), repeat=longest)]
    lengths = set()
    for number, image in enumerate(images):
        scores = [_log_p(model, image, ids) for ids in space]
        for alpha in (0.0, 0.7, 2.0):
            at = max(range(len(space)), key=lambda at: scores[at] / len(space[at]) ** alpha)
            wanted = [token for token in space[at] if token != eos]
            lengths.add(len(wanted))
            found = beam(
                model, images[number : number + 1], eos_id=eos, max_tokens=longest,
                beams=len(space), length_penalty=alpha,
            )  # fmt: skip
            assert found == [wanted]
    assert len(lengths) > 2


@torch.no_grad()
def _beam_from_scratch(model: VirTex, image: Tensor, *, longest: int, beams: int, alpha: float):
    """Beam search as it is told: one image, lists, no cache, every prefix computed anew."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, longest + 1):
        ways = sorted(
            (
                (total + log_p, [*text, token])
                for total, text in alive
                for token, log_p in enumerate(
                    torch.log_softmax(next_logits(model, image, text), 0).tolist()
                )
            ),
            reverse=True,
        )
        finished += [
            (total / length**alpha, text[:-1]) for total, text in ways[:beams] if text[-1] == EOS
        ]
        alive = [way for way in ways if way[1][-1] != EOS][:beams]
        if len(finished) >= beams:
            break
    else:
        finished += [(total / longest**alpha, text) for total, text in alive]
    return max(finished)[1]


@pytest.mark.parametrize(
    ("beams", "longest", "alpha"), [(2, 8, 2.0), (5, 8, 0.0), (4, 3, 2.0), (3, 8, 3.0)]
)
def test_cached_batched_beam_search_equals_the_plain_one(
    model: VirTex, beams: int, longest: int, alpha: float
) -> None:
    images, options = made_images(12), {"beams": beams, "length_penalty": alpha}
    wanted = [
        _beam_from_scratch(model, image, longest=longest, beams=beams, alpha=alpha)
        for image in images
    ]
    assert beam(model, images, eos_id=EOS, max_tokens=longest, **options) == wanted


def test_a_wider_beam_finds_likelier_texts_and_scores_them_right(model: VirTex) -> None:
    images = made_images(12)
    with torch.no_grad():
        scores = {}
        for beams in (1, 4, 8):
            texts = beam(model, images, eos_id=EOS, max_tokens=8, beams=beams, length_penalty=0.0)
            ended = [text if len(text) == 8 else [*text, EOS] for text in texts]
            scores[beams] = sum(
                _log_p(model, image, ids) for image, ids in zip(images, ended, strict=True)
            )
    assert scores[4] > scores[1]
    assert scores[8] >= scores[4]


@dataclass
class Prefixes:
    """Images and every word read so far: a state in which it shows which prefixes a search keeps."""

    images: Tensor
    words: Tensor

    def repeat(self, times: int) -> Prefixes:
        return self.reorder(torch.arange(len(self.words)).repeat_interleave(times))

    def reorder(self, index_N: Tensor) -> Prefixes:
        return Prefixes(self.images[index_N], self.words[index_N])


class Branching:
    """Writes by a table: after [0] no way on is likely, after [1] all but certainly 2 and then the end."""

    LOGITS: ClassVar = {
        (0,): [-1.0, -1.0, -1.0, -9.0],
        (1,): [-9.0, -9.0, 3.0, -9.0],
    }

    def __init__(self, first: list[float]) -> None:
        self.first = first

    def prefill(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None, prompts=None):
        empty = torch.empty((len(pixels_BCHW), 0), dtype=torch.long)
        hidden = torch.zeros(len(pixels_BCHW), 1, 1)
        return Prefixes(pixels_BCHW, empty), torch.tensor([self.first] * len(pixels_BCHW)), hidden

    def step(self, state: Prefixes, tokens_N: Tensor):
        grown = torch.cat([state.words, tokens_N[:, None]], dim=1)
        ends = [-9.0, -9.0, -9.0, 3.0]
        rows = [self.LOGITS.get(tuple(row), ends) for row in grown.tolist()]
        return Prefixes(state.images, grown), torch.tensor(rows)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return hidden_ND


def test_beams_move_with_their_whole_prefix() -> None:
    # Greedy takes 0 first; the best text begins with 1, so its beam must overtake with all it has read.
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    model = Branching([0.0, -0.2, -9.0, -9.0])
    assert greedy(model, pixels, eos_id=3, max_tokens=4)[0][0] == 0
    assert beam(model, pixels, eos_id=3, max_tokens=4, beams=2) == [[1, 2], [1, 2]]


def test_a_text_that_ends_leaves_its_place_to_the_next_best() -> None:
    # The empty text is likeliest, then 0, then 1: two stay alive though one of the two best has ended.
    model, pixels = Branching([0.4, 0.3, -9.0, 0.5]), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert greedy(model, pixels, eos_id=3, max_tokens=4) == [[]]
    assert beam(model, pixels, eos_id=3, max_tokens=4, beams=2) == [[1, 2]]


@pytest.mark.parametrize("decoder", [greedy, beam])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(decoder, bad: float) -> None:
    model = half_trained()
    with torch.no_grad():
        model.output.bias[2] = bad
    with pytest.raises(BadLogits, match="lower the plan's lr"):
        decoder(model, made_images(2), eos_id=EOS, max_tokens=4)


@pytest.mark.parametrize(
    "wrong", [{"beams": 0}, {"length_penalty": -1.0}, {"length_penalty": float("nan")}]
)
def test_a_beam_out_of_range_is_refused(model: VirTex, wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        beam(model, made_images(1), eos_id=EOS, max_tokens=4, **wrong)
