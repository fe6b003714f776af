"""What only MAGIC owes: its search over real parts equals the formula worked out from scratch, and nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.abilities import Captions, Learns, Steers
from components.config import ConfigError
from components.data.batches import Batches, SplitImages, load_split
from components.data.text import SPECIALS, Tokenizer
from components.decoding.candidates import Weighed
from components.decoding.contrastive import contrastive
from components.decoding.greedy import greedy
from components.decoding.magic import magic
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.clip import Clip, ClipConfig
from components.models.magic import Magic, MagicConfig
from components.models.parts import Origin, Part

LONGEST = 6
ROOM = 30
"""Tokens the CLIP reads: none of the texts below is longer unless it is said."""
STAND_IN = Origin(kind="random", name="test")


def _rough(module: nn.Module) -> nn.Module:
    """Random enough that words, states and cosines differ."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in module.parameters():
            param.add_(0.1 * torch.randn(param.shape, generator=random))
    return module


@pytest.fixture(scope="module")
def clip_tokenizer() -> Tokenizer:
    """Another than the language model's, so that ids of one mean nothing to the other."""
    return Tokenizer.train(["a red circle", "the green square", "blue"], 280)


@pytest.fixture(scope="module")
def parts(tiny_tokenizer: Tokenizer, clip_tokenizer: Tokenizer) -> dict[str, Part]:
    torch.manual_seed(0)
    lm = CausalLmConfig(width=32, layers=2, heads=2, positions=40, max_tokens=20)
    lm = CausalLm(lm.fitted((), tiny_tokenizer))
    clip = ClipConfig(
        vision_widths=(8, 16), image_px=16, text_width=32, text_layers=1, embed_width=16,
        max_tokens=ROOM, vocab_size=clip_tokenizer.vocab_size,
    )  # fmt: skip
    return {
        "lm": Part(module=_rough(lm), tokenizer=tiny_tokenizer, origin=STAND_IN),
        "clip": Part(module=_rough(Clip(clip)), tokenizer=clip_tokenizer, origin=STAND_IN),
    }


@pytest.fixture(scope="module")
def config() -> MagicConfig:
    return MagicConfig(image_px=16, max_tokens=20)


@pytest.fixture(scope="module")
def model(parts: dict[str, Part], config: MagicConfig) -> Magic:
    return Magic(config, parts).eval()


@pytest.fixture(scope="module")
def end(model: Magic, parts: dict[str, Part]) -> int:
    return parts["lm"].tokenizer.eos_id


def _images(count: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (count, 3, 2, 2), generator=random, dtype=torch.uint8)
    return blocks.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def _states(model: Magic, ids: list[int]) -> Tensor:
    """(T, D) of `<bos>` and these, without a cache."""
    return model.lm.run(model.lm.embed(torch.tensor([[model.lm.bos_id, *ids]])))[0][0]


@torch.no_grad()
def _from_scratch(
    model: Magic, parts, image: Tensor, *, top_k: int, alpha: float, beta: float, prompt=()
) -> list[int]:
    """Section "Algorithm" of the paper, one image, every number computed anew: no cache, no batch."""
    lm, clip = parts["lm"], parts["clip"]
    image_D = clip.module.embed_images(image[None])[0]
    scale = clip.module.log_scale.exp()
    ids = list(prompt)
    while len(ids) < LONGEST + len(prompt):
        before = _states(model, ids)
        probs = torch.softmax(lm.module.logits(before[-1]), 0)
        words = probs.topk(top_k).indices.tolist()
        likeness = []
        for word in words:
            text = lm.tokenizer.decode([*ids, word][len(prompt) :])
            text_D = clip.module.embed_texts(*clip.tokenizer.encode([text], ROOM))[0]
            likeness.append(scale * (image_D @ text_D))
        magic_score = torch.softmax(torch.stack(likeness), 0)
        scores = []
        for place, word in enumerate(words):
            state = _states(model, [*ids, word])[-1]
            worst = max(F.cosine_similarity(state, other, dim=0) for other in before)
            scores.append((1 - alpha) * probs[word] - alpha * worst + beta * magic_score[place])
        word = words[int(torch.stack(scores).argmax())]
        if word == lm.tokenizer.eos_id:
            break
        ids.append(word)
    return ids[len(prompt) :]


@pytest.mark.parametrize("beta", [0.0, 2.0])
@pytest.mark.parametrize(("top_k", "alpha"), [(8, 0.1), (5, 0.6)])
def test_the_cached_search_equals_brute_force(
    model: Magic, parts, end: int, top_k: int, alpha: float, beta: float
) -> None:
    images, weights = _images(5), {"top_k": top_k, "alpha": alpha, "beta": beta}
    wanted = [_from_scratch(model, parts, image, **weights) for image in images]
    assert magic(model, images, eos_id=end, max_tokens=LONGEST, **weights) == wanted
    if beta:
        assert len({tuple(text) for text in wanted}) > 1


def test_a_prompt_is_continued_and_its_states_count_but_the_clip_never_reads_it(
    model: Magic, parts, end: int
) -> None:
    images, weights = _images(3), {"top_k": 6, "alpha": 0.6, "beta": 2.0}
    prompts = [parts["lm"].tokenizer.words(text) for text in ("the circle", "", "a red")]
    wanted = [
        _from_scratch(model, parts, image, prompt=prompt, **weights)
        for image, prompt in zip(images, prompts, strict=True)
    ]
    options = {"eos_id": end, "max_tokens": LONGEST, **weights}
    assert magic(model, images, prompts=prompts, **options) == wanted
    assert magic(model, images, **options) != wanted


def test_texts_that_are_the_same_are_read_once(model: Magic, monkeypatch) -> None:
    rows: list[int] = []
    for name in ("run", "step"):
        real = getattr(model.lm, name)
        monkeypatch.setattr(
            model.lm,
            name,
            lambda inputs, *more, real=real, **named: (
                rows.append(len(inputs)),
                real(inputs, *more, **named),
            )[1],
        )
    with torch.no_grad():
        state, _, _ = model.prefill(_images(4), prompts=[[20], [20], [21], [20]])
        state, _ = model.step(
            state.reorder(torch.arange(4).repeat_interleave(2)), torch.tensor([30, 31] * 4)
        )
        model.step(state.reorder(torch.tensor([0, 2, 5, 7])), torch.tensor([40, 40, 40, 41]))
    assert rows == [2, 4, 3]


def test_one_prompt_an_image_is_asked_for(model: Magic) -> None:
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        model.prefill(_images(3), prompts=[[20], [21]])


def test_without_beta_it_is_contrastive_search_and_without_alpha_greedy(
    model: Magic, end: int
) -> None:
    images, options = _images(6), {"eos_id": end, "max_tokens": LONGEST}
    plain = contrastive(model, images, top_k=8, alpha=0.5, **options)
    assert magic(model, images, top_k=8, alpha=0.5, beta=0.0, **options) == plain
    likeliest = greedy(model, images, **options)
    assert magic(model, images, top_k=8, alpha=0.0, beta=0.0, **options) == likeliest


def test_the_images_share_sums_to_one_over_the_candidates_and_is_the_clips_softmax(
    model: Magic, parts, end: int
) -> None:
    steps: list[Weighed] = []
    images = _images(4)
    magic(model, images, eos_id=end, max_tokens=3, top_k=7, beta=2.0, watch=steps.append)
    for step in steps:
        torch.testing.assert_close(step.steering_BK.sum(dim=1), torch.ones(4))
    clip, tokenizer = parts["clip"].module, parts["lm"].tokenizer
    with torch.no_grad():
        image_BD = clip.embed_images(images)
        texts = [tokenizer.decode([word]) for word in steps[0].candidates_BK[0].tolist()]
        text_KD = clip.embed_texts(*parts["clip"].tokenizer.encode(texts, ROOM))
        wanted_BK = (clip.log_scale.exp() * image_BD @ text_KD.T).softmax(dim=1)
    torch.testing.assert_close(steps[0].steering_BK, wanted_BK)


def test_a_constant_added_to_every_clip_score_changes_nothing(model: Magic, end: int) -> None:
    images, options = _images(6), {"eos_id": end, "max_tokens": LONGEST, "top_k": 8, "beta": 2.0}
    plain = magic(model, images, **options)
    moved = magic(model, images, scorer=lambda *asked: model.steer(*asked) + 50, **options)
    assert moved == plain


def test_an_endless_beta_takes_the_clips_best_of_the_k_likeliest_and_none_outside(
    model: Magic, end: int
) -> None:
    steps: list[Weighed] = []
    asked: list[tuple[Tensor, Tensor]] = []

    def scorer(state, candidates_BK: Tensor) -> Tensor:
        everything_BV = torch.arange(model.lm.vocab_size).expand(len(candidates_BK), -1)
        asked.append((model.steer(state, candidates_BK), model.steer(state, everything_BV)))
        return asked[-1][0]

    magic(
        model, _images(4), eos_id=end, max_tokens=3, top_k=5, beta=1e9, scorer=scorer,
        watch=steps.append,
    )  # fmt: skip
    better_outside = 0
    for step, (inside_BK, everywhere_BV) in zip(steps, asked, strict=True):
        taken_B = inside_BK.gather(1, step.chosen_B[:, None])[:, 0]
        torch.testing.assert_close(taken_B, inside_BK.amax(dim=1))
        better_outside += int((everywhere_BV.amax(dim=1) > taken_B + 1e-4).sum())
    assert better_outside > 0


def test_with_one_candidate_the_image_has_no_say(model: Magic, end: int) -> None:
    images, options = _images(6), {"eos_id": end, "max_tokens": LONGEST}
    written = magic(model, images, top_k=1, beta=100.0, **options)
    assert written == greedy(model, images, **options)
    assert len({tuple(text) for text in written}) == 1


def test_nothing_is_trained_and_no_optimiser_can_be_built(model: Magic) -> None:
    assert not [name for name, param in model.named_parameters() if param.requires_grad]
    assert isinstance(model, Captions)
    assert isinstance(model, Steers)
    assert not isinstance(model, Learns)
    with pytest.raises(ValueError, match="empty parameter list"):
        torch.optim.AdamW(param for param in model.parameters() if param.requires_grad)
    assert not any(module.training for module in model.train().modules())


def test_the_clip_reads_neither_start_nor_specials_and_only_the_last_words(
    parts, config: MagicConfig, monkeypatch
) -> None:
    model = Magic(replace(config, clip_words=3), parts).eval()
    lm_tokenizer, clip_tokenizer = parts["lm"].tokenizer, parts["clip"].tokenizer
    read: list[str] = []
    real = clip_tokenizer.words
    monkeypatch.setattr(clip_tokenizer, "words", lambda text: (read.append(text), real(text))[1])
    ids = lm_tokenizer.words("the circle is red a")
    with torch.no_grad():
        state, _, _ = model.prefill(_images(1), prompts=[lm_tokenizer.words("square")])
        for word in ids[:4]:
            state, _ = model.step(state, torch.tensor([word]))
        special = SPECIALS.index("<image>")
        model.steer(state, torch.tensor([[ids[4], special, lm_tokenizer.eos_id]]))
    assert read == ["is red a", "is red"]


def test_a_text_too_long_for_the_clip_loses_its_first_words(model: Magic, parts) -> None:
    clip, tokenizer = parts["clip"].module, parts["clip"].tokenizer
    long = "the green square blue red circle a " * 4
    tokens, lengths = tokenizer.encode([long, "a"], 99)
    assert ROOM < lengths[0] < 99
    last = torch.cat([tokens[:1, :1], tokens[:1, lengths[0] - ROOM + 1 : lengths[0]]], dim=1)
    with torch.no_grad():
        found = model._embed_texts([long, "a"])
        wanted = clip.embed_texts(last, torch.tensor([ROOM]))
        short = clip.embed_texts(*tokenizer.encode(["a"], ROOM))
    torch.testing.assert_close(found, torch.cat([wanted, short]))


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"image_px": 32}, "set image_px: 16"),
        ({"max_tokens": 41}, "set max_tokens: 40 or less"),
        ({"max_tokens": 2}, "at least 3"),
        ({"clip_words": 0}, "at least 3 and 1"),
    ],
)
def test_settings_that_do_not_fit_the_parts_are_refused(parts, wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        Magic(MagicConfig(**{"image_px": 16, "max_tokens": 20, **wrong}), parts)


def test_parts_that_are_missing_mute_or_strangers_are_refused(
    parts, config, clip_tokenizer
) -> None:
    def with_part(slot: str, **changes) -> dict[str, Part]:
        return {**parts, slot: replace(parts[slot], **changes)}

    with pytest.raises(ConfigError, match='needs a part "clip"'):
        Magic(config, {"lm": parts["lm"]})
    with pytest.raises(ConfigError, match="is no Contrasts"):
        Magic(config, with_part("clip", module=parts["lm"].module))
    with pytest.raises(ConfigError, match="brings no tokenizer"):
        Magic(config, with_part("clip", tokenizer=None))
    with pytest.raises(ConfigError, match="tokenizer the language model was trained with"):
        Magic(config, with_part("lm", tokenizer=clip_tokenizer))


def test_the_papers_parts_have_the_published_sizes_and_magic_adds_none() -> None:
    with torch.device("meta"):
        lm, clip = CausalLm(CausalLmConfig.paper()), Clip(ClipConfig.small())
    reads_as_gpt2 = SimpleNamespace(bos_id=50256, eos_id=50256, pad_id=50256, vocab_size=50257)
    model = Magic(
        MagicConfig.paper(),
        {
            "lm": Part(module=lm, tokenizer=reads_as_gpt2, origin=STAND_IN),
            "clip": Part(module=clip, tokenizer=reads_as_gpt2, origin=STAND_IN),
        },
    )
    counted = {
        name: sum(param.numel() for param in module.parameters())
        for name, module in {"lm": lm, "clip": clip, "both": model}.items()
    }
    assert counted["lm"] == pytest.approx(124e6, rel=0.02)
    assert counted["clip"] == pytest.approx(151e6, rel=0.02)
    assert counted["both"] == counted["lm"] + counted["clip"]


def _learn(model: nn.Module, images: SplitImages, tokenizer: Tokenizer, steps: int) -> nn.Module:
    batches = Batches(images, model.batch_spec(), tokenizer, 32, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        model.loss(batches.batch(step)).total.backward()
        optimiser.step()
    return model.eval()


def test_on_drawings_the_image_decides_what_is_written(tiny_shards, tiny_tokenizer) -> None:
    vocabulary = {"vocab_size": tiny_tokenizer.vocab_size}
    torch.manual_seed(0)
    lm = CausalLmConfig(
        width=32, layers=1, heads=2, positions=20, max_tokens=12, texts="captions",
        random_offsets=False,
    )  # fmt: skip
    clip = ClipConfig(
        vision_widths=(16, 32), image_px=32, text_width=32, text_layers=1, embed_width=32,
        max_tokens=12, truncate=True, **vocabulary,
    )  # fmt: skip
    words = load_split(tiny_shards, "train", 0)
    pictures = load_split(tiny_shards, "train", 32)
    trained = {
        "lm": _learn(CausalLm(lm.fitted((), tiny_tokenizer)), words, tiny_tokenizer, 60),
        "clip": _learn(Clip(clip), pictures, tiny_tokenizer, 80),
    }
    parts = {
        slot: Part(module=module, tokenizer=tiny_tokenizer, origin=STAND_IN)
        for slot, module in trained.items()
    }
    model = Magic(MagicConfig(image_px=32, max_tokens=12), parts).eval()
    unseen = load_split(tiny_shards, "test", 32)
    options = {"eos_id": tiny_tokenizer.eos_id, "max_tokens": 8, "top_k": 8}

    def right(beta: float) -> tuple[float, int]:
        written = magic(model, unseen.pixels_NCHW, beta=beta, **options)
        texts = [tiny_tokenizer.decode(ids) for ids in written]
        named = [
            set(row.sample.label.split()) <= set(text.split())
            for row, text in zip(unseen.rows, texts, strict=True)
        ]
        return sum(named) / len(named), len(set(texts))

    blind, blind_texts = right(0.0)
    steered, steered_texts = right(0.5)
    assert (blind <= 0.1, blind_texts) == (True, 1)
    assert steered >= 0.5
    assert steered_texts > 7
