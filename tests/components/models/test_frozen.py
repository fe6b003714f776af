"""What only Frozen owes: its six invariants, its ablations, and several images in one sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.abilities import Answers, Captions, InContext, Learns, Matches
from components.config import ConfigError
from components.data.text import Tokenizer
from components.data.texts import question_prompt
from components.decoding.beam import beam
from components.decoding.greedy import greedy
from components.models.backbones import VisionShape, build_vision
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.frozen import Frozen, FrozenConfig
from components.models.lm_layouts import LAYOUTS
from components.models.parts import Origin, Part
from components.models.prompts import QuestionTooLong
from components.objectives.language import token_cross_entropy
from components.records import Batch

VOCABULARY = 20
EOS, SEP = VOCABULARY - 1, 5
PX = 16


def _part(layout: str = "gpt2", tokenizer: Tokenizer | None = None, **changes) -> dict[str, Part]:
    torch.manual_seed(1)
    settings = {"layout": layout, "width": 32, "layers": 2, "heads": 4, "positions": 64}
    config = CausalLmConfig(
        **{**settings, "max_tokens": 16, "vocab_size": VOCABULARY, "dropout": 0.3, **changes}
    )
    lm = CausalLm(config if tokenizer is None else config.fitted([], tokenizer))
    for param in lm.parameters():  # far enough from nothing for order and images to count
        torch.nn.init.normal_(param, std=0.2)
    origin = Origin(kind="random", name="lm")
    return {"lm": Part(module=lm, tokenizer=tokenizer, origin=origin)}


def _config(**changes) -> FrozenConfig:
    return FrozenConfig(
        **{
            "image_px": PX, "vision_widths": (8, 16), "prefix_tokens": 3, "max_tokens": 10,
            "mapper_std": 0.1, "vocab_size": VOCABULARY, **changes,
        }
    )  # fmt: skip


def _made(layout: str = "gpt2", **changes) -> Frozen:
    parts = _part(layout)
    torch.manual_seed(0)
    return Frozen(_config(**changes), parts)


@pytest.fixture
def model() -> Frozen:
    return _made().eval()


def _images(count: int, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, PX, PX), generator=made, dtype=torch.uint8)


def _batch(prompts: tuple[int, ...] = (1, 1, 1)) -> Batch:
    tokens = torch.tensor(
        [[1, 6, 7, 8, 9, EOS, 0], [1, 10, 11, EOS, 0, 0, 0], [1, 12, 12, 13, EOS, 0, 0]]
    )
    return Batch(
        pixels_BCHW=_images(3),
        tokens_BT=tokens,
        lengths_B=torch.tensor([6, 4, 5]),
        groups_B=torch.arange(3),
        keys_B=2 * torch.arange(3),
        prompts_B=torch.tensor(prompts),
    )


def _train(model: Frozen, steps: int) -> None:
    groups = [{"params": group["params"]} for group in model.param_groups()]
    optimiser = torch.optim.Adam(groups, lr=1e-3)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        model.loss(_batch()).total.backward()
        optimiser.step()


# 1 — the language model never changes, and gradients pass through it


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_training_moves_all_of_the_vision_and_not_one_bit_of_the_language_model(
    layout: str,
) -> None:
    model = _made(layout)
    before = {name: value.clone() for name, value in model.lm.state_dict().items()}
    _train(model, 3)
    model.zero_grad()
    model.loss(_batch()).total.backward()
    after = model.lm.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(param.grad is None for param in model.lm.parameters())
    ours = [(name, p) for name, p in model.named_parameters() if not name.startswith("lm.")]
    assert {name.split(".")[0] for name, _ in ours} == {"vision", "mapper"}
    assert all(p.grad is not None and bool(p.grad.any()) for _, p in ours)
    grouped = {id(p) for group in model.param_groups() for p in group["params"]}
    assert grouped == {id(p) for _, p in ours}


def test_the_language_model_drops_nothing_while_the_vision_trains() -> None:
    model = _made().train()
    assert model.vision.training
    assert not any(module.training for module in model.lm.modules())
    states = [model._states(torch.zeros(3, 3, 32), _batch().tokens_BT) for _ in range(2)]
    assert torch.equal(*states)


# 2 — a text without an image is the bare model's


def test_a_text_without_images_has_the_logits_of_the_bare_language_model_bit_for_bit() -> None:
    words, bare = [1, 6, 7, 8], _part()["lm"].module.eval()
    model = Frozen(_config(), _part())
    _train(model, 2)
    with torch.no_grad():
        states, _ = bare.run(bare.embed(torch.tensor([words])))
        _, logits, hidden = model.eval()._read([[words]])
        # By the same product each: one row and four are multiplied by different kernels.
        assert torch.equal(logits, bare.logits(states[:, -1]))
        assert torch.equal(model.lm.logits(hidden), bare.logits(states))


# 3 — the image counts only through the mapper


@torch.no_grad()
def test_a_mapper_of_zeros_makes_the_loss_independent_of_the_image_as_blind_does(
    model: Frozen,
) -> None:
    one = _batch()
    other = Batch(**{**vars(one), "pixels_BCHW": _images(3, seed=9), "keys_B": one.keys_B + 100})
    assert not torch.equal(model.loss(one).total, model.loss(other).total)
    blind = _made(blind=True).eval()
    for made in (model, blind):
        torch.nn.init.normal_(made.mapper.bias, generator=torch.Generator().manual_seed(3))
    model.mapper.weight.zero_()
    assert torch.equal(model.loss(one).total, model.loss(other).total)
    assert torch.equal(blind.loss(one).total, blind.loss(other).total)
    assert torch.equal(blind.loss(one).total, model.loss(one).total)


# 4 — one term for each token of the text


@pytest.mark.parametrize("separated", [True, False])
def test_the_loss_has_one_term_for_each_text_token_and_a_shift_by_the_prefix_is_another_value(
    separated: bool,
) -> None:
    """By hand: for each word, the whole sequence up to it through the language model, and its log p."""
    model, batch = _made(separated=separated).eval(), _batch(prompts=(1, 2, 1))
    lm, terms, shifted = model.lm, [], []
    with torch.no_grad():
        prefix = model._prefix(batch.pixels_BCHW, None)
        for row, (length, given) in enumerate(
            zip(batch.lengths_B.tolist(), batch.prompts_B.tolist(), strict=True)
        ):
            words = batch.tokens_BT[row, :length].tolist()
            sep = [SEP] if separated else []
            start = torch.cat([model._words([1], "cpu"), prefix[row]])
            for place in range(given, length):
                read = torch.cat([start, model._words([*sep, *words[1:place]], "cpu")])
                log_p = lm.logits(lm.run(read[None])[0][0]).log_softmax(-1)
                terms.append(-log_p[-1, words[place]])
                shifted.append(-log_p[max(-4, -len(log_p)), words[place]])
        found = model.loss(batch).total
    assert len(terms) == 5 + 2 + 4
    torch.testing.assert_close(found, torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)
    assert abs(torch.stack(shifted).mean() - found) > 0.01


def test_two_words_by_hand() -> None:
    """A language model that puts probability 1/2, then 1/4 on the right word costs (ln 2 + ln 4) / 2."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))
    value = token_cross_entropy(logits, torch.tensor([0, 1])).item()
    assert value == pytest.approx((torch.tensor(2.0).log() + torch.tensor(4.0).log()).item() / 2)


def test_padding_changes_no_loss(model: Frozen) -> None:
    batch = _batch()
    longer = torch.cat([batch.tokens_BT, torch.zeros(3, 2).long()], 1)
    padded = Batch(**{**vars(batch), "tokens_BT": longer})
    torch.testing.assert_close(model.loss(padded).total, model.loss(batch).total)


# 5 — several images in one sequence


@torch.no_grad()
def test_swapping_the_first_of_two_images_changes_only_what_stands_after_it(model: Frozen) -> None:
    first, other, second = _images(3)
    words = [6, 7]
    hidden = []
    for image in (first, other):
        prefix = model._prefix(torch.stack([image, second]), None)
        pieces = [[1, 8, 9], prefix[0], [SEP, *words], prefix[1], [SEP, 10]]
        hidden.append(model._read([pieces])[2][0])
    before = 3
    assert torch.equal(hidden[0][:before], hidden[1][:before])
    text = [6, 7, 8, 12, 13]  # after the first image: <sep> 6 7, and after the second <sep> 10
    assert all((hidden[0][place] - hidden[1][place]).abs().max() > 1e-4 for place in text)
    images = [3, 4, 5, 9, 10, 11]
    assert not hidden[0][images].any()


@torch.no_grad()
def test_demonstrations_stand_before_the_query_with_their_images(model: Frozen) -> None:
    images = _images(4)
    shots = [[(images[0], [6, 7]), (images[1], [8])], [(images[2], [9, 10, 11])]]
    queries = _images(2, seed=5)
    _, logits, hidden = model.prefill_shots(shots, queries, prompts=[[12], [13, 14]])
    prefix = model._prefix(torch.cat([queries, images]), None)
    rows = [
        [[1], prefix[2], [SEP, 6, 7, SEP], prefix[3], [SEP, 8, SEP], prefix[0], [SEP, 12]],
        [[1], prefix[4], [SEP, 9, 10, 11, SEP], prefix[1], [SEP, 13, 14]],
    ]
    for row, pieces in enumerate(rows):
        _, alone, states = model._read([pieces])
        torch.testing.assert_close(logits[row], alone[0], atol=1e-5, rtol=1e-5)
        length = states.shape[1]
        torch.testing.assert_close(hidden[row, -length:], states[0], atol=1e-5, rtol=1e-5)
    swapped = [[(images[3], [6, 7]), (images[1], [8])], shots[1]]
    _, changed, _ = model.prefill_shots(swapped, queries, prompts=[[12], [13, 14]])
    assert not torch.allclose(changed[0], logits[0])
    torch.testing.assert_close(changed[1], logits[1])


@torch.no_grad()
def test_no_demonstrations_are_a_plain_caption(model: Frozen) -> None:
    images = _images(2)
    _, wanted, _ = model.prefill(images)
    _, found, _ = model.prefill_shots([[], []], images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    _, texts_alone, _ = model.prefill_shots([[(None, [6, 7])], [(None, [6, 7])]], images)
    _, by_hand, _ = model._read(
        [[[1, 6, 7, SEP], prefix, [SEP]] for prefix in model._prefix(images, None)]
    )
    torch.testing.assert_close(texts_alone, by_hand)


# 6 — cached = uncached


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@torch.no_grad()
def test_writing_with_the_cache_is_writing_without_it(layout: str) -> None:
    model = _made(layout).eval()
    images, prompts = _images(3), [[], [6], [7, 8, 9]]
    cached = greedy(model, images, eos_id=EOS, max_tokens=6, prompts=prompts)
    for row, prompt in enumerate(prompts):
        words: list[int] = []
        for _ in range(6):
            prefix = model._prefix(images[row : row + 1], None)[0]
            _, logits, _ = model._read([[[1], prefix, [SEP, *prompt, *words]]])
            words.append(int(logits.argmax()))
            if words[-1] == EOS:
                words.pop()
                break
        assert cached[row] == words


@torch.no_grad()
def test_the_logits_of_writing_are_those_of_training(model: Frozen) -> None:
    batch = _batch()
    states = model._states(model._prefix(batch.pixels_BCHW, None), batch.tokens_BT)
    wanted = model.lm.logits(states)
    state, logits, _ = model.prefill(batch.pixels_BCHW)
    found = [logits]
    for at in range(1, 4):
        state, hidden = model.step(state, batch.tokens_BT[:, at])
        found.append(model.logits(hidden))
    torch.testing.assert_close(torch.stack(found, 1), wanted[:, :4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden, states[:, 3], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_beam_is_greedy_and_more_beams_keep_their_image(model: Frozen) -> None:
    images = _images(3)
    asked = {"eos_id": EOS, "max_tokens": 6}
    assert beam(model, images, beams=1, **asked) == greedy(model, images, **asked)
    together = beam(model, images, beams=3, **asked)
    alone = [beam(model, images[row : row + 1], beams=3, **asked)[0] for row in range(3)]
    assert together == alone


# What it can be asked


@torch.no_grad()
def test_a_match_is_the_mean_log_likelihood_of_the_text(model: Frozen) -> None:
    batch = _batch()
    scores = model.match(batch.pixels_BCHW, batch.tokens_BT, batch.lengths_B)
    log_p = scores * (batch.lengths_B - 1)
    wanted = -model.loss(batch).total * (batch.lengths_B - 1).sum()
    torch.testing.assert_close(log_p.sum(), wanted)
    assert (scores < 0).all()


def test_questions_are_answered_behind_the_prompt_the_texts_teach() -> None:
    tokenizer = Tokenizer.train(["question: what color is it ? answer: red"], 300)
    parts = _part(tokenizer=tokenizer)
    model = Frozen(_config().fitted([], tokenizer), parts).eval()
    images = _images(2)
    answers = model.answer(images, ["what color is it ?", "is it red ?"], tokenizer)
    asked = [tokenizer.words(question_prompt(q)) for q in ("what color is it ?", "is it red ?")]
    ids = greedy(model, images, eos_id=tokenizer.eos_id, max_tokens=12, prompts=asked)
    assert answers == [tokenizer.decode(row).strip().partition("\n")[0] for row in ids]
    assert model.config.sep_id == tokenizer.sep_id


def test_an_answer_ends_where_the_context_does_and_a_question_without_room_is_refused() -> None:
    tokenizer = Tokenizer.train(["question: what color is it ? answer: red"], 300)
    asked = len(tokenizer.words(question_prompt("what color is it ?")))
    # <bos>, three of the image, <sep>, the question, and two of the answer.
    parts = _part(tokenizer=tokenizer, positions=5 + asked + 2, max_tokens=6)
    model = Frozen(_config(max_tokens=6).fitted([], tokenizer), parts).eval()
    (answer,) = model.answer(_images(1), ["what color is it ?"], tokenizer)
    ids = greedy(
        model, _images(1), eos_id=tokenizer.eos_id, max_tokens=2,
        prompts=[tokenizer.words(question_prompt("what color is it ?"))],
    )  # fmt: skip
    assert answer == tokenizer.decode(ids[0]).strip().partition("\n")[0]
    with pytest.raises(QuestionTooLong, match="ask shorter"):
        model.answer(_images(1), ["what color is it ? what color ?"], tokenizer)


def test_it_learns_writes_answers_matches_and_reads_demonstrations(model: Frozen) -> None:
    for ability in (Learns, Captions, Answers, Matches, InContext):
        assert isinstance(model, ability)


# Ablations


@pytest.mark.parametrize("language", ["finetuned", "scratch"])
def test_where_the_language_model_learns_too_it_is_its_own_and_the_part_stays(
    language: str,
) -> None:
    parts = _part()
    part = parts["lm"].module
    before = {name: value.clone() for name, value in part.state_dict().items()}
    model = Frozen(_config(language=language), parts)
    mine = {p.data_ptr() for p in model.parameters()}
    assert not mine & {p.data_ptr() for p in part.parameters()}
    same = all(torch.equal(value, model.lm.state_dict()[name]) for name, value in before.items())
    assert same == (language == "finetuned")
    _train(model, 2)
    assert model.lm.training
    after = model.lm.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(value, part.state_dict()[name]) for name, value in before.items())


def test_blind_learns_a_prefix_and_no_vision() -> None:
    model = _made(blind=True)
    assert not any(p.requires_grad for p in model.vision.parameters())
    before = model.mapper.bias.clone()
    _train(model, 2)
    assert not torch.equal(before, model.mapper.bias)


def test_a_tower_it_is_handed_stays_as_it_is_and_the_mapper_learns() -> None:
    tower = build_vision("conv", PX, VisionShape(widths=(8, 16)))
    origin = Origin(kind="random", name="vision")
    parts = _part() | {"vision": Part(module=tower, tokenizer=None, origin=origin)}
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    model = Frozen(_config(vision="part"), parts)
    model.initialise()
    _train(model, 2)
    after = model.vision.tower.state_dict()
    assert all(torch.equal(before[f"tower.{name}"], value) for name, value in after.items())
    grouped = {id(p) for group in model.param_groups() for p in group["params"]}
    assert grouped == {id(p) for p in model.mapper.parameters()}


# What cannot work


@pytest.mark.parametrize(
    ("config", "part", "advice"),
    [
        ({"vocab_size": 21}, {}, "more than the language model's 20"),
        ({"max_tokens": 61}, {}, "need 65 positions"),
        ({"max_tokens": 61, "separated": False}, {"positions": 63}, "need 64 positions"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_advice(
    config: dict, part: dict, advice: str
) -> None:
    with pytest.raises(ConfigError, match=advice):
        Frozen(_config(**config), _part(**part))
    with pytest.raises(ConfigError, match='needs a part "lm"'):
        Frozen(_config(), {})
    with pytest.raises(ConfigError, match="shows nothing"):
        _config(prefix_tokens=0)


def test_a_language_model_that_reads_with_another_tokenizer_is_refused() -> None:
    one, other = (Tokenizer.train([text], 300) for text in ("a red circle", "blue " * 3))
    part = _part(tokenizer=one)["lm"]
    wrong = {"lm": Part(module=part.module, tokenizer=other, origin=part.origin)}
    with pytest.raises(ConfigError, match="was trained with"):
        Frozen(_config().fitted([], one), wrong)


def test_the_paper_preset_learns_a_resnet_50_and_one_linear_layer() -> None:
    """The paper gives no count of what is trained: NF-ResNet-50 and a linear map to 2 embeddings of a 7 B model."""
    config = FrozenConfig.paper()
    assert (config.prefix_tokens, config.features, config.image_px) == (2, "pooled", 224)
    with torch.device("meta"):
        parts = _part("opt", width=4096, heads=32, layers=1, positions=2048, vocab_size=50272)
        model = Frozen(FrozenConfig(**{**config.to_dict(), "vocab_size": 50272}), parts)
    assert all(param.is_meta for param in model.parameters())
    learnt = sum(param.numel() for param in model.parameters() if param.requires_grad)
    assert learnt == 23_508_032 + 2048 * 2 * 4096 + 2 * 4096


# 7 — demonstrations before a text that is read, and not written


def test_rows_behind_others_have_the_logits_of_writing_them_after_these_demonstrations(
    model: Frozen,
) -> None:
    batch, shots = _batch(prompts=(1, 2, 1)), torch.tensor([[1, 2], [2, 0], [0, 1]])
    texts = [[6, 7, 8, 9], [10, 11], [12, 12, 13]]
    wanted = []
    with torch.no_grad():
        found = model.context_views(batch, shots)["context"]
        for row, shown in enumerate(shots.tolist()):
            before = [(batch.pixels_BCHW[shot], texts[shot]) for shot in shown]
            given = int(batch.prompts_B[row]) - 1
            state, logits, _ = model.prefill_shots(
                [before], batch.pixels_BCHW[row : row + 1], [texts[row][:given]]
            )
            wanted.append(logits)
            for word in texts[row][given:]:
                state, hidden = model.step(state, torch.tensor([word]))
                wanted.append(model.logits(hidden))
    torch.testing.assert_close(found, torch.cat(wanted))
    assert found.shape == model.views(batch)["tokens"].shape


def test_more_demonstrations_than_the_language_model_can_read_are_refused(model: Frozen) -> None:
    batch = _batch()
    rows = batch.rows(torch.arange(3).repeat(2))
    with pytest.raises(ConfigError, match="has 64 positions; take fewer demonstrations"):
        model.context_views(rows, torch.arange(1, 6).expand(6, -1))
