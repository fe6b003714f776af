"""What only SimVLM owes: its six invariants, its sizes, and writing with a cache behind a prefix."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from components.abilities import Answers, Captions, Learns, Matches
from components.config import ConfigError
from components.data.text import Tokenizer
from components.models.encoder_decoder import relative_index
from components.models.prompts import QuestionTooLong
from components.models.simvlm import SimVLM, SimvlmConfig, TextTooLong
from components.objectives.language import NothingToPredict
from components.objectives.prefix import cut
from components.records import Batch

VOCABULARY = 30
EOS = VOCABULARY - 1
PATCHES = 4
"""16 px at stride 8."""


def _config(**changes) -> SimvlmConfig:
    return SimvlmConfig(
        **{
            "vision_widths": (8, 16), "image_px": 16, "width": 32, "max_tokens": 12,
            "encoder_layers": 2, "decoder_layers": 2, "vocab_size": VOCABULARY, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def model() -> SimVLM:
    torch.manual_seed(0)
    made = SimVLM(_config()).eval()
    with torch.no_grad():
        for name, param in made.named_parameters():
            if "relative" in name or "words.weight" in name or "places" in name:
                param.normal_(std=0.5)
    return made


def _batch(**changes) -> Batch:
    tokens = torch.tensor(
        [
            [1, 5, 6, 7, 8, EOS, 0, 0],
            [1, 9, 10, EOS, 0, 0, 0, 0],
            [1, 4, 4, 5, EOS, 0, 0, 0],
            [1, 11, 12, 13, 14, 15, EOS, 0],
        ]
    )
    made = torch.Generator().manual_seed(0)
    whole = {
        "pixels_BCHW": torch.randint(0, 256, (4, 3, 16, 16), generator=made, dtype=torch.uint8),
        "tokens_BT": tokens,
        "lengths_B": torch.tensor([6, 4, 5, 7]),
        "groups_B": torch.arange(4),
        "keys_B": 2 * torch.arange(4),
        "prompts_B": torch.ones(4, dtype=torch.long),
    }
    return Batch(**{**whole, **changes})


def _halves(batch: Batch, given: list[int]):
    return cut(batch.tokens_BT, batch.lengths_B, torch.tensor(given), bos_id=1)


def _encode(model: SimVLM, batch: Batch, halves, *, images: bool = True):
    return model.encode(
        model._patches(batch.pixels_BCHW, None),
        torch.full((4,), images),
        halves.prefix_BP,
        halves.prefix_real_BP,
    )


def _decode(model: SimVLM, batch: Batch, halves) -> torch.Tensor:
    memory, seen = _encode(model, batch, halves)
    hidden, _ = model.decode(model._memory(memory), seen, halves.inputs_BS, halves.positions_BS)
    return model.logits(hidden)


def test_the_family_has_its_abilities(model: SimVLM) -> None:
    for ability in (Learns, Captions, Answers, Matches):
        assert isinstance(model, ability)


@torch.no_grad()
def test_the_last_prefix_token_changes_the_state_of_the_first_image_patch(model: SimVLM) -> None:
    batch = _batch()
    changed = batch.tokens_BT.clone()
    changed[0, 2] = 20
    one, _ = _encode(model, batch, _halves(batch, [3, 2, 2, 4]))
    other, _ = _encode(model, batch, _halves(_batch(tokens_BT=changed), [3, 2, 2, 4]))
    assert (one[0, 0] - other[0, 0]).abs().max() > 1e-5
    assert torch.equal(one[1:], other[1:])


@torch.no_grad()
def test_no_suffix_token_changes_any_encoder_state(model: SimVLM) -> None:
    batch = _batch()
    changed = batch.tokens_BT.clone()
    for row, given in enumerate([3, 2, 2, 4]):
        changed[row, given : batch.lengths_B[row] - 1] = 21
    one, _ = _encode(model, batch, _halves(batch, [3, 2, 2, 4]))
    other, _ = _encode(model, batch, _halves(_batch(tokens_BT=changed), [3, 2, 2, 4]))
    assert not torch.equal(batch.tokens_BT, changed)
    assert torch.equal(one, other)


@torch.no_grad()
def test_logits_do_not_depend_on_later_suffix_tokens(model: SimVLM) -> None:
    batch = _batch()
    changed = batch.tokens_BT.clone()
    changed[0, 4] = 22  # read at place 3 of a suffix that starts at 2
    one, other = (
        _decode(model, made, _halves(made, [2, 2, 2, 2]))
        for made in (batch, _batch(tokens_BT=changed))
    )
    assert torch.equal(one[0, :3], other[0, :3])
    assert (one[0, 3] - other[0, 3]).abs().max() > 1e-5


def test_the_loss_is_the_mean_over_suffix_tokens_and_nothing_else(model: SimVLM) -> None:
    batch = _batch()
    loss = model.loss(batch)
    logits = torch.log_softmax(_decode(model, batch, _halves(batch, [1, 1, 1, 1])), dim=-1)
    chosen = [
        -logits[row, at - 1, batch.tokens_BT[row, at]]
        for row in range(4)
        for at in range(1, int(batch.lengths_B[row]))
    ]
    # T_p = T_i: all words and each <eos>, 18 tokens.
    assert len(chosen) == 18
    torch.testing.assert_close(loss.total, torch.stack(chosen).mean())


def test_prefix_labels_and_padding_weigh_nothing(model: SimVLM) -> None:
    """The gradient of the logits is zero but at the suffix, so no label elsewhere can change the loss."""
    batch = _batch(prompts_B=torch.tensor([4, 3, 2, 5]))
    halves = _halves(batch, [4, 3, 2, 5])
    assert halves.learnt_BS.sum(dim=1).tolist() == [2, 1, 3, 2]
    total = model.loss(batch).total
    logits = torch.log_softmax(_decode(model, batch, halves), dim=-1)
    picked = logits.gather(2, halves.labels_BS[..., None])[..., 0][halves.learnt_BS]
    torch.testing.assert_close(total, -picked.mean())
    padded = torch.cat([batch.tokens_BT, torch.zeros(4, 3).long()], dim=1)
    longer = _batch(prompts_B=batch.prompts_B, tokens_BT=padded)
    torch.testing.assert_close(model.loss(longer).total, total)


def test_training_draws_a_cut_for_each_row_and_the_loss_follows_the_generator(
    model: SimVLM,
) -> None:
    model.train()
    batch, totals = _batch(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        totals.append(model.loss(batch).total.item())
    assert totals[0] == totals[1] != totals[2]


def test_a_question_is_read_and_only_its_answer_is_learnt(model: SimVLM) -> None:
    """Nothing is drawn behind a prompt: training asks as `answer` will."""
    batch = _batch(prompts_B=torch.tensor([4, 3, 4, 6]))
    asked = model.loss(batch)
    model.config = _config(text_only_share=0.0)
    model.train()
    model.vision.eval()
    torch.testing.assert_close(model.loss(batch).total, asked.total)
    assert "prefix_short" not in asked.parts
    torch.testing.assert_close(asked.parts["prefix_long"], asked.total.detach())


def test_a_batch_of_questions_without_room_for_answers_is_refused(model: SimVLM) -> None:
    batch = _batch()
    with pytest.raises(NothingToPredict):
        model.loss(_batch(prompts_B=batch.lengths_B))


@torch.no_grad()
@pytest.mark.parametrize("prompts", [None, [[5], [6, 7, 8], [], [9, 9]]])
def test_word_by_word_with_a_cache_equals_the_full_pass(model: SimVLM, prompts) -> None:
    batch = _batch()
    words = torch.tensor([[11, 12, 13], [14, 15, 16], [17, 18, 19], [20, 21, 22]])
    given = [[]] * 4 if prompts is None else prompts
    lengths = torch.tensor([len(ids) + 1 + 4 for ids in given])
    tokens = torch.zeros(4, int(lengths.max()), dtype=torch.long)
    for row, (ids, suffix) in enumerate(zip(given, words.tolist(), strict=True)):
        tokens[row, : lengths[row]] = torch.tensor([1, *ids, *suffix, EOS])
    full = _batch(tokens_BT=tokens, lengths_B=lengths)
    wanted = _decode(model, full, _halves(full, (lengths - 4).tolist()))
    state, logits, _ = model.prefill(batch.pixels_BCHW, prompts=prompts)
    found = [logits]
    for at in range(3):
        state, hidden = model.step(state, words[:, at])
        found.append(model.logits(hidden))
    torch.testing.assert_close(torch.stack(found, dim=1), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_of_a_batch_write_what_they_write_alone(model: SimVLM) -> None:
    pixels, prompts = _batch().pixels_BCHW, [[5], [6, 7, 8], [], [9, 9]]
    _, together, _ = model.prefill(pixels, prompts=prompts)
    for row in range(4):
        _, alone, _ = model.prefill(pixels[row : row + 1], prompts=prompts[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_permuting_patches_with_their_places_and_coordinates_changes_nothing(
    model: SimVLM,
) -> None:
    batch = _batch()
    halves = _halves(batch, [3, 2, 2, 4])
    wanted = _decode(model, batch, halves)
    order = torch.tensor([2, 0, 3, 1])
    bare = model._patches(batch.pixels_BCHW, None) - model.image_places
    patches = bare[:, order] + model.image_places[order]
    model._patches = lambda pixels, keys: patches
    # The bias belongs to pairs of coordinates: without moving it, what the decoder says changes.
    assert (_decode(model, batch, halves) - wanted).abs().max() > 1e-4
    model.relative_index_NN = model.relative_index_NN[order][:, order]
    torch.testing.assert_close(_decode(model, batch, halves), wanted, atol=1e-5, rtol=1e-5)


def test_the_relative_index_tells_apart_every_distance_and_nothing_else() -> None:
    side = 3
    index = relative_index(side)
    place = [(at // side, at % side) for at in range(side * side)]
    seen: dict[tuple[int, int], int] = {}
    for one, (y, x) in enumerate(place):
        for other, (v, u) in enumerate(place):
            assert seen.setdefault((y - v, x - u), int(index[one, other])) == index[one, other]
    assert len(set(seen.values())) == len(seen) == (2 * side - 1) ** 2


def test_a_plain_text_trains_the_same_decoder_and_no_image(model: SimVLM) -> None:
    model.train()
    model.config = _config(text_only_share=0.75)
    model.zero_grad()
    loss = model.loss(_batch())
    assert set(loss.parts) >= {"pairs", "text_only"}
    batch, halves = _batch(), _halves(_batch(), [1, 1, 1, 1])
    # Only the plain rows: the tower gets no gradient, every weight of the decoder does.
    hidden = model._read(torch.zeros(4, PATCHES, 32), 0, halves)
    F.cross_entropy(model.logits(hidden), halves.labels_BS[halves.learnt_BS]).backward()
    assert all(param.grad is None for param in model.vision.parameters())
    for name, param in model.decoder.named_parameters():
        # One <bos> is all the memory: what a softmax over one is asked does not matter.
        if not name.endswith(("memory.query.weight", "memory.query.bias")):
            assert param.grad is not None, name
            assert name.endswith("bias") or param.grad.any(), name
    shown = model._read(model._patches(batch.pixels_BCHW, None), 0, halves)
    torch.testing.assert_close(shown, hidden)


def test_in_training_the_last_rows_lose_their_images(model: SimVLM) -> None:
    seen = []
    encode = model.vision.encode
    model.vision.encode = lambda pixels, keys: seen.append(len(pixels)) or encode(pixels, keys)
    model.train()
    model.loss(_batch())
    model.eval()
    model.loss(_batch())
    assert seen == [2, 4]


@torch.no_grad()
def test_match_is_the_mean_log_likelihood_of_words_and_end(model: SimVLM) -> None:
    batch = _batch()
    scores = model.match(batch.pixels_BCHW, batch.tokens_BT, batch.lengths_B)
    for row in range(4):
        state, logits, _ = model.prefill(batch.pixels_BCHW[row : row + 1])
        text, total = batch.tokens_BT[row, 1 : batch.lengths_B[row]], 0.0
        for token in text:
            total += torch.log_softmax(logits[0], dim=-1)[token].item()
            state, hidden = model.step(state, token[None])
            logits = model.logits(hidden)
        assert scores[row].item() == pytest.approx(total / len(text), abs=1e-4)


@torch.no_grad()
def test_reordered_rows_carry_their_words_their_prefix_and_their_image(model: SimVLM) -> None:
    pixels, prompts = _batch().pixels_BCHW, [[5], [6, 7, 8], [], [9, 9]]
    state, _, _ = model.prefill(pixels, prompts=prompts)
    words = torch.tensor([5, 6, 7, 8, 9, 10, 11, 12])
    state, _ = model.step(state.reorder(torch.arange(4).repeat_interleave(2)), words)
    order = torch.tensor([7, 0, 0, 5])
    _, moved = model.step(state.reorder(order), torch.tensor([4] * 4))
    _, straight = model.step(state, torch.tensor([4] * 8))
    torch.testing.assert_close(moved, straight[order])
    assert not torch.allclose(straight[4], straight[5])


def test_answers_are_texts_and_a_question_without_room_is_refused() -> None:
    tokenizer = Tokenizer.train(["question: what color is the star ? answer: red"], 400)
    torch.manual_seed(0)
    model = SimVLM(_config(vocab_size=tokenizer.vocab_size, max_tokens=16)).eval()
    pixels = _batch().pixels_BCHW[:2]
    answers = model.answer(pixels, ["what color is the star ?", "what ?"], tokenizer)
    assert len(answers) == 2
    assert all(isinstance(answer, str) for answer in answers)
    with pytest.raises(QuestionTooLong, match="ask shorter"):
        model.answer(pixels[:1], ["what color is the star " * 5], tokenizer)


def test_more_tokens_than_places_are_refused(model: SimVLM) -> None:
    pixels = _batch().pixels_BCHW[:1]
    with pytest.raises(TextTooLong, match="max_tokens"):
        model.prefill(pixels, prompts=[[5] * 12])
    state, _, _ = model.prefill(pixels)
    for _ in range(11):
        state, _ = model.step(state, torch.tensor([5]))
    with pytest.raises(TextTooLong, match="max_tokens"):
        model.step(state, torch.tensor([5]))


def test_one_prompt_an_image_is_asked_for(model: SimVLM) -> None:
    with pytest.raises(ValueError, match="1 prompts for 4 images"):
        model.prefill(_batch().pixels_BCHW, prompts=[[5]])


def test_the_start_is_near_the_blind_guess_of_all_words(model: SimVLM) -> None:
    fresh = SimVLM(_config())
    assert fresh.loss(_batch()).total.item() == pytest.approx(math.log(VOCABULARY), rel=0.1)


def test_the_papers_preset_has_the_widths_of_vit_base_and_three_stages_of_resnet_101() -> None:
    """The paper gives no parameter count for Base, so the sum is checked against its parts."""
    with torch.device("meta"):
        model = SimVLM(SimvlmConfig.paper())
    assert model.vision.map_tokens == 196
    assert model.vision.map_width == 1024
    # ResNet-101 is published with 44.549 M; the fourth stage has 14.965 M and the classifier 2.049 M of them.
    tower = sum(param.numel() for param in model.vision.parameters())
    assert tower == 44_549_160 - 14_964_736 - 2_049_000
    width, heads = 768, 12
    attention, inner = 4 * width**2 + 4 * width, 8 * width**2 + 5 * width
    encoder = 12 * (attention + inner + 4 * width + 27**2 * heads) + 2 * width
    decoder = 12 * (2 * attention + inner + 6 * width) + 2 * width
    embeddings = (32_000 + 64 + 196) * width + 1024 * width + width
    total = sum(param.numel() for param in model.parameters())
    assert total == tower + encoder + decoder + embeddings


def test_the_tiny_preset_is_as_large_as_the_prototype() -> None:
    assert sum(param.numel() for param in SimVLM(SimvlmConfig.tiny()).parameters()) == (
        pytest.approx(1.7e6, rel=0.06)
    )


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"width": 30}, "divides it"),
        ({"text_only_share": 1.0}, r"text_only_share=1.0 is not in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout=-0.1 is not in"),
        ({"max_tokens": 1}, "give 2 or more"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)
