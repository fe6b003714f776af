"""What every family that writes owes its decoders, over the catalog: its cache, its states and its padding tell no lies.

Weights are random and rough, so that texts differ by image; the end of a text is a word that some texts hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from components.abilities import Captions, Steers
from components.catalog import DECODERS, MODELS
from components.decoding.options import defaults

NAMES = sorted(name for name, family in MODELS.items() if issubclass(family, Captions))
WORDS = 5
PROMPTS = [[20, 21, 22], [], [23], [24, 25]]


@pytest.fixture(scope="module", params=NAMES)
def model(request, build_tiny) -> nn.Module:
    made = build_tiny(request.param).eval()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in made.parameters():
            param.add_(0.1 * torch.randn(param.shape, generator=random))
    return made


@pytest.fixture(scope="module")
def images(model: nn.Module) -> Tensor:
    side = model.batch_spec().image_px
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (len(PROMPTS), 3, 4, 4), generator=random, dtype=torch.uint8)
    return blocks.repeat_interleave(side // 4, dim=2).repeat_interleave(side // 4, dim=3)


@pytest.fixture(scope="module")
def end(model: nn.Module, images: Tensor) -> int:
    """A word that the first text holds in its midst: as `<eos>` it makes texts of several lengths."""
    texts = DECODERS["greedy"](model, images, eos_id=-1, max_tokens=WORDS, prompts=PROMPTS)
    return texts[0][2]


def _write(
    model, images: Tensor, decoder: str, end: int, prompts=None, **options
) -> list[list[int]]:
    if decoder == "magic" and "beta" not in options:
        options["beta"] = 0.5 if isinstance(model, Steers) else 0.0
    if "top_k" in defaults(DECODERS[decoder]):
        options.setdefault("top_k", 4)
    return DECODERS[decoder](
        model, images, eos_id=end, max_tokens=WORDS, prompts=prompts, **options
    )


@torch.no_grad()
def _anew(model, image: Tensor, words: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits of the next word and the state of the last one, everything read at once for one image alone."""
    _, logits, hidden = model.prefill(image[None], prompts=[words])
    return logits[0], hidden[0, -1]


@torch.no_grad()
def _alone(model, image: Tensor, prompt: Sequence[int], words: Sequence[int]):
    """The same for one image alone, word for word."""
    state, logits, hidden = model.prefill(image[None], prompts=[prompt])
    hidden = hidden[:, -1]
    for word in words:
        state, hidden = model.step(state, torch.tensor([word]))
        logits = model.logits(hidden)
    return logits[0], hidden[0]


def _needs_one_sequence(model, images: Tensor) -> None:
    """An encoder that reads prompts in its own way (SimVLM's prefix) has no words to compare with written ones."""
    if model.prefill(images[:1], prompts=[[20, 21]])[2].shape[1] < 3:
        pytest.skip("prompts are read by an encoder; its own tests compare the cache with no cache")


@torch.no_grad()
def test_cached_equals_reading_all_anew(model, images: Tensor) -> None:
    _needs_one_sequence(model, images)
    random = torch.Generator().manual_seed(2)
    tokens = torch.randint(10, 200, (len(images), WORDS), generator=random)
    state, logits, hidden = model.prefill(images, prompts=PROMPTS)
    last = hidden[:, -1]
    for at in range(WORDS + 1):
        for row, image in enumerate(images):
            words = [*PROMPTS[row], *tokens[row, :at].tolist()]
            wanted_logits, wanted_state = _anew(model, image, words)
            torch.testing.assert_close(logits[row], wanted_logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(last[row], wanted_state, atol=1e-4, rtol=1e-4)
        if at < WORDS:
            state, last = model.step(state, tokens[:, at])
            logits = model.logits(last)


@torch.no_grad()
def test_a_prompts_states_are_those_of_reading_it_word_for_word(model, images: Tensor) -> None:
    _needs_one_sequence(model, images)
    _, _, together = model.prefill(images, prompts=PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        state, _, first = model.prefill(images[row : row + 1])
        wanted = list(first[0])
        for word in prompt:
            state, hidden = model.step(state, torch.tensor([word]))
            wanted.append(hidden[0])
        found = together[row, together.shape[1] - len(wanted) :]
        torch.testing.assert_close(found, torch.stack(wanted), atol=1e-4, rtol=1e-4)
        assert not together[row, : together.shape[1] - len(wanted)].any()


@torch.no_grad()
def test_reordering_moves_whole_prefixes_and_their_images(model, images: Tensor) -> None:
    state, _, _ = model.prefill(images, prompts=PROMPTS)
    first = torch.tensor([30, 31, 32, 33, 34, 35, 36, 37])
    state, _ = model.step(state.reorder(torch.arange(4).repeat_interleave(2)), first)
    # Rows turned, one kept twice, images mixed, some dropped.
    order = torch.tensor([7, 0, 0, 5, 2])
    second = torch.tensor([40, 41, 42, 43, 44])
    state, hidden = model.step(state.reorder(order), second)
    logits = model.logits(hidden)
    _, after = model.step(state.reorder(torch.tensor([3, 1])), torch.tensor([50, 51]))
    for row, origin in enumerate(order.tolist()):
        image, prompt = origin // 2, PROMPTS[origin // 2]
        words = [first[origin].item(), second[row].item()]
        wanted_logits, wanted_state = _alone(model, images[image], prompt, words)
        torch.testing.assert_close(logits[row], wanted_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(hidden[row], wanted_state, atol=1e-4, rtol=1e-4)
    _, wanted = _alone(model, images[2], PROMPTS[2], [35, 43, 50])
    torch.testing.assert_close(after[0], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("texts", [3, 12], ids=["as beams", "as candidates"])
@torch.no_grad()
def test_texts_of_one_image_read_side_by_side_are_what_they_are_alone(
    model, images: Tensor, texts: int
) -> None:
    """Beams keep as many texts as there were, candidates leave one of each image, and another image's go for good."""
    random = torch.Generator().manual_seed(5)
    state, _, _ = model.prefill(images, prompts=PROMPTS)
    written: list[tuple[int, tuple[int, ...]]] = [(image, ()) for image in range(len(images))]
    for at in range(WORDS):
        alive = len(written) // len({image for image, _ in written})
        of_image = [
            [row for row, (image, _) in enumerate(written) if image == each]
            for each in range(at == 0, len(images))
        ]
        kept = [
            [rows[i] for i in torch.randint(0, alive, (3 if texts == 3 else 1,), generator=random)]
            for rows in of_image
            if rows
        ]
        index = torch.tensor(kept).flatten().repeat_interleave(1 if texts == 3 else texts)
        words = torch.randint(10, 200, (len(index),), generator=random)
        state, hidden = model.step(state.reorder(index), words)
        written = [
            (written[origin][0], (*written[origin][1], word))
            for origin, word in zip(index.tolist(), words.tolist(), strict=True)
        ]
    for row in range(0, len(written), 2):
        image, ids = written[row]
        _, wanted = _alone(model, images[image], PROMPTS[image], ids)
        torch.testing.assert_close(hidden[row], wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_state_that_was_gone_on_from_can_be_gone_on_from_again(model, images: Tensor) -> None:
    state, _, _ = model.prefill(images, prompts=PROMPTS)
    words = torch.tensor([30, 31, 32, 33])
    _, first = model.step(state, words)
    model.step(state, words + 9)
    _, again = model.step(state, words)
    assert torch.equal(first, again)


def test_texts_of_the_model_under_test_differ_in_length_and_words(model, images, end: int) -> None:
    texts = _write(model, images, "greedy", end, PROMPTS)
    assert len({tuple(text) for text in texts}) > 1
    assert len({len(text) for text in texts}) > 1


@pytest.mark.parametrize("prompts", [None, PROMPTS], ids=["no prompt", "prompts"])
def test_a_beam_of_one_is_greedy(model, images: Tensor, end: int, prompts) -> None:
    wanted = _write(model, images, "greedy", end, prompts)
    assert _write(model, images, "beam", end, prompts, beams=1) == wanted


@pytest.mark.parametrize("prompts", [None, PROMPTS], ids=["no prompt", "prompts"])
def test_contrastive_search_without_alpha_is_greedy(model, images, end: int, prompts) -> None:
    wanted = _write(model, images, "greedy", end, prompts)
    assert _write(model, images, "contrastive", end, prompts, alpha=0.0) == wanted


@pytest.mark.parametrize("prompts", [None, PROMPTS], ids=["no prompt", "prompts"])
def test_magic_without_beta_is_contrastive_search(model, images, end: int, prompts) -> None:
    wanted = _write(model, images, "contrastive", end, prompts, alpha=0.6)
    assert _write(model, images, "magic", end, prompts, alpha=0.6, beta=0.0) == wanted


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_a_batch_writes_what_its_images_write_alone(model, images, end: int, decoder: str) -> None:
    together = _write(model, images, decoder, end, PROMPTS)
    alone = [
        _write(model, image[None], decoder, end, [prompt])[0]
        for image, prompt in zip(images, PROMPTS, strict=True)
    ]
    assert together == alone
