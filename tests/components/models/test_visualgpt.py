"""What only VisualGPT owes: its gates, GPT-2 bit for bit where they are wide open, and writing with a cache."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from components.config import ConfigError
from components.decoding.beam import beam
from components.decoding.greedy import greedy
from components.models.backbones import VisionSlot
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.parts import Origin, Part
from components.models.resnet import resnet50
from components.models.srau import gates
from components.models.virtex import BOS_ID, TextTooLong, VirTex, VirtexConfig
from components.models.visualgpt import VisualGpt, VisualGptConfig
from components.records import Batch

VOCABULARY = 20
EOS = VOCABULARY - 1
WIDTH, LAYERS, HEADS = 32, 2, 4


def _config(**changes) -> VisualGptConfig:
    return VisualGptConfig(
        **{
            "vision_widths": (8, 16), "image_px": 16, "width": WIDTH, "layers": LAYERS,
            "heads": HEADS, "encoder_inner": 48, "max_tokens": 10, "vocab_size": VOCABULARY,
            "dropout": 0.0, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def model() -> VisualGpt:
    torch.manual_seed(0)
    return _wide(VisualGpt(_config()))


def _wide(model: VisualGpt) -> VisualGpt:
    """Weights far enough from zero that what is looked at changes what is said."""
    for param in model.parameters():
        if param.ndim >= 2:
            nn.init.normal_(param, std=0.3)
    return model.eval()


def _pixels(count: int = 3) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=made, dtype=torch.uint8)


def _batch() -> Batch:
    tokens = torch.tensor(
        [[1, 5, 6, 7, 8, EOS, 0], [1, 9, 10, EOS, 0, 0, 0], [1, 4, 4, 5, EOS, 0, 0]]
    )
    return Batch(
        pixels_BCHW=_pixels(), tokens_BT=tokens, lengths_B=torch.tensor([6, 4, 5]),
        groups_B=torch.arange(3), keys_B=2 * torch.arange(3), prompts_B=torch.ones(3).long(),
    )  # fmt: skip


def _gpt2(**changes) -> Part:
    about = {
        "vocab_size": VOCABULARY, "n_positions": 16, "n_embd": WIDTH, "n_layer": LAYERS,
        "n_head": HEADS, "bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": 0, **changes,
    }  # fmt: skip
    torch.manual_seed(1)
    theirs = GPT2LMHeadModel(GPT2Config(**about))
    for param in theirs.parameters():
        nn.init.normal_(param, std=0.2)
    return _part(theirs.eval())


def _part(module: nn.Module) -> Part:
    return Part(module=module, tokenizer=None, origin=Origin(kind="folder", name="made"))


def _force_language(model: VisualGpt) -> None:
    """Gates whose sigmoid is 1 to the last bit, whatever they look at."""
    for block in model.h:
        for gate in block.gate_inputs:
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, 50.0)


GRID = torch.linspace(-6, 6, 10_001)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.2, 0.3, 0.49])
def test_gates_are_the_closed_form_never_both_shut_and_sum_to_one_where_both_pass(
    threshold: float,
) -> None:
    language, vision = gates(GRID, threshold)
    share = torch.sigmoid(GRID)
    torch.testing.assert_close(language, torch.where(share > threshold, share, 0.0))
    torch.testing.assert_close(vision, torch.where(1 - share > threshold, 1 - share, 0.0))
    assert not ((language == 0) & (vision == 0)).any()
    both = (language > 0) & (vision > 0)
    assert both.any()
    torch.testing.assert_close((language + vision)[both], torch.ones(int(both.sum())))


def test_a_higher_threshold_shuts_more_gates_and_none_shuts_none() -> None:
    shut = [
        sum((gate == 0).float().mean().item() for gate in gates(GRID, threshold))
        for threshold in (0.0, 0.1, 0.2, 0.3, 0.4)
    ]
    assert shut[0] == 0
    assert shut == sorted(set(shut))
    # Of a uniform grid on [-6, 6] the share past the threshold is where |pre| > ln((1 - t) / t).
    wanted = 1 - math.log(0.8 / 0.2) / 6
    assert shut[2] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(("threshold", "dead"), [(0.0, 0), (0.2, 0), (0.49, 0), (0.55, 0.033)])
def test_no_unit_dies_below_a_threshold_of_one_half(threshold: float, dead: float) -> None:
    pre = GRID.clone().requires_grad_()
    language, vision = gates(pre, threshold)
    (language * 1.0 + vision * -2.0).sum().backward()
    assert (pre.grad == 0).float().mean().item() == pytest.approx(dead, abs=1e-3)


def test_gates_weight_language_where_they_are_open_and_are_channels_not_scalars(
    model: VisualGpt,
) -> None:
    block = model.h[0]
    said, seen = torch.randn(2, 3, WIDTH), torch.randn(2, 3, WIDTH)
    pre = block.gate_input(0, said, seen)
    assert pre.shape == said.shape
    assert pre.std(dim=-1).min() > 0.1
    linear = block.gate_inputs[0]
    torch.testing.assert_close(pre, linear(torch.cat([said, seen], -1)))
    hidden = VisualGpt(_config(gate_input="hidden")).h[0]
    assert hidden.gate_inputs is None
    _, vision = gates(hidden.gate_input(0, said, seen), 0.2)
    share = torch.sigmoid(said)
    torch.testing.assert_close(vision, share * (share > 0.2))


def test_a_block_mixes_its_levels_by_the_formula(model: VisualGpt) -> None:
    """a' = sum_k m_k / sqrt 3, x' = a' + MLP(ln_2 a'), with m_k as the gates say; no residual around it."""
    block, x = model.h[0], torch.randn(2, 5, WIDTH)
    levels = [torch.randn(2, 6, WIDTH) for _ in range(3)]
    with torch.no_grad():
        found, _ = block(x, block.read(levels))
        said = x + block.attn(block.ln_1(x), None, None)[0]
        mixed = torch.zeros_like(said)
        for level, encoded in enumerate(levels):
            seen = block.look(block.ln_1(said), block.look.read(block.ln_1(encoded)))
            share = torch.sigmoid(block.gate_inputs[level](torch.cat([said, seen], -1)))
            mixed += torch.where(share > 0.2, share, 0) * said
            mixed += torch.where(1 - share > 0.2, 1 - share, 0) * seen
        mixed = mixed / 3**0.5
        wanted = mixed + block.mlp(block.ln_2(mixed))
    torch.testing.assert_close(found, wanted)


def test_all_language_at_one_level_is_gpt2_bit_for_bit() -> None:
    part = _gpt2()
    model = VisualGpt(_config(levels=1)).eval()
    model.initialise({"lm": part})
    _force_language(model)
    tokens = torch.randint(0, VOCABULARY, (3, 10))
    with torch.no_grad():
        wanted = part.module(tokens).logits
        found = model.logits(model.read_texts(model._levels(_pixels(), None), tokens))
    assert torch.equal(found, wanted)


def test_all_language_at_three_levels_is_root_three_of_it_and_no_gpt2() -> None:
    part = _gpt2()
    model = VisualGpt(_config()).eval()
    model.initialise({"lm": part})
    _force_language(model)
    block, x = model.h[0], torch.randn(2, 5, WIDTH)
    levels = [torch.randn(2, 6, WIDTH) for _ in range(3)]
    read = []
    block.ln_2.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    tokens = torch.randint(0, VOCABULARY, (3, 10))
    with torch.no_grad():
        block(x, block.read(levels))
        said = x + block.attn(block.ln_1(x), None, None)[0]
        found = model.logits(model.read_texts(model._levels(_pixels(), None), tokens))
        theirs = part.module(tokens).logits
    torch.testing.assert_close(read[0], 3**0.5 * said)
    assert (found - theirs).abs().max() > 0.1


def test_padded_regions_are_not_seen(model: VisualGpt) -> None:
    tokens = _batch().tokens_BT
    regions = torch.randn(3, 4, 16)
    more = torch.cat([regions, 100 * torch.randn(3, 5, 16)], dim=1)
    real = torch.arange(9)[None].expand(3, -1) < 4
    model.encoder.places = None
    with torch.no_grad():
        alone = model.read_texts(model.encoder(regions), tokens)
        padded = model.read_texts(model.encoder(more, real), tokens, real)
        seen = model.read_texts(model.encoder(more), tokens)
    torch.testing.assert_close(padded, alone)
    assert (seen - alone).abs().max() > 1e-2


def test_permuting_regions_changes_nothing_unless_places_are_learnt() -> None:
    tokens, regions, order = _batch().tokens_BT, torch.randn(3, 4, 16), torch.tensor([2, 0, 3, 1])
    for places in (False, True):
        torch.manual_seed(0)
        model = _wide(VisualGpt(_config(places=places)))
        with torch.no_grad():
            one = model.logits(model.read_texts(model.encoder(regions), tokens))
            other = model.logits(model.read_texts(model.encoder(regions[:, order]), tokens))
        if places:
            assert (one - other).abs().max() > 1e-2
        else:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_writing_with_the_cache_gives_the_logits_of_training(model: VisualGpt) -> None:
    tokens = _batch().tokens_BT[:, :5]
    with torch.no_grad():
        hidden = model.read_texts(model._levels(_pixels(), None), tokens)
        state, logits, read = model.prefill(_pixels())
        found, states = [logits], [read[:, -1]]
        for at in range(1, 5):
            state, read = model.step(state, tokens[:, at])
            found.append(model.logits(read))
            states.append(read)
    assert (tokens[:, 0] == BOS_ID).all()
    torch.testing.assert_close(torch.stack(found, 1), model.logits(hidden), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(states, 1), hidden, atol=1e-4, rtol=1e-4)


def test_prompts_of_any_length_are_read_as_if_alone(model: VisualGpt) -> None:
    prompts = [[5, 6, 7], [], [9]]
    with torch.no_grad():
        state, logits, hidden = model.prefill(_pixels(), prompts=prompts)
        _, after = model.step(state, torch.tensor([4, 5, 6]))
        for row, prompt in enumerate(prompts):
            alone = model.prefill(_pixels()[row : row + 1], prompts=[prompt])
            torch.testing.assert_close(logits[row], alone[1][0], atol=1e-4, rtol=1e-4)
            theirs = alone[2][0]
            torch.testing.assert_close(hidden[row, -len(theirs) :], theirs, atol=1e-4, rtol=1e-4)
            _, next_alone = model.step(alone[0], torch.tensor([4 + row]))
            torch.testing.assert_close(after[row], next_alone[0], atol=1e-4, rtol=1e-4)


def test_a_beam_of_one_writes_what_greedy_writes_and_batches_what_singles_do(
    model: VisualGpt,
) -> None:
    limits = {"eos_id": EOS, "max_tokens": 8}
    together = greedy(model, _pixels(), **limits)
    assert beam(model, _pixels(), beams=1, **limits) == together
    assert [greedy(model, _pixels()[row : row + 1], **limits)[0] for row in range(3)] == together
    assert len({tuple(text) for text in together}) > 1


def test_reordered_rows_carry_their_words_and_their_image(model: VisualGpt) -> None:
    with torch.no_grad():
        state, _, _ = model.prefill(_pixels())
        state, _ = model.step(
            state.reorder(torch.arange(3).repeat_interleave(2)), torch.tensor([5, 6, 7, 8, 9, 10])
        )
        order = torch.tensor([5, 4, 3, 3])
        _, moved = model.step(state.reorder(order), torch.tensor([4] * 4))
        _, straight = model.step(state, torch.tensor([4] * 6))
    torch.testing.assert_close(moved, straight[order])


def test_the_score_of_a_pair_is_the_mean_log_likelihood_of_its_words(model: VisualGpt) -> None:
    batch = _batch()
    with torch.no_grad():
        found = model.match(batch.pixels_BCHW, batch.tokens_BT, batch.lengths_B)
        for row, length in enumerate(batch.lengths_B.tolist()):
            tokens = batch.tokens_BT[row : row + 1, :length]
            levels = model._levels(batch.pixels_BCHW[row : row + 1], None)
            log_p = model.logits(model.read_texts(levels, tokens)).log_softmax(-1)[0]
            each = [log_p[at, tokens[0, at + 1]].item() for at in range(length - 1)]
            assert found[row].item() == pytest.approx(sum(each) / len(each), abs=1e-4)
    total = -sum(found[row].item() * (length - 1) for row, length in enumerate([6, 4, 5])) / 12
    assert model.loss(batch).total.item() == pytest.approx(total, abs=1e-4)


def test_given_words_are_not_learnt(model: VisualGpt) -> None:
    batch = _batch()
    given = Batch(**{**vars(batch), "prompts_B": torch.tensor([3, 1, 1])})
    changed = batch.tokens_BT.clone()
    changed[0, 2] = 6 if changed[0, 2] != 6 else 7
    log_p = model.logits(
        model.read_texts(model._levels(batch.pixels_BCHW, None), batch.tokens_BT)
    ).log_softmax(-1)
    said = log_p[:, :-1].gather(2, batch.tokens_BT[:, 1:, None])[..., 0]
    wanted = -(said[0, 2:5].sum() + said[1, :3].sum() + said[2, :4].sum()) / 10
    torch.testing.assert_close(model.loss(given).total, wanted)


def test_a_stages_language_model_is_where_it_starts_and_nothing_of_it_is_kept() -> None:
    torch.manual_seed(2)
    sizes = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "vocab_size": VOCABULARY}
    lm = CausalLm(CausalLmConfig(**sizes))
    model = VisualGpt(_config())
    model.initialise({"lm": _part(lm)})
    theirs = lm.model.transformer.state_dict()
    ours = model.state_dict()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value[:10] if name == "wpe.weight" else value)
    places = {value.data_ptr() for value in ours.values()}
    assert not places & {value.data_ptr() for value in theirs.values()}
    assert all(param.requires_grad for param in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_embd": 64}, "wte.weight"),
        ({"n_layer": 3}, "layers"),
        ({"n_layer": 1}, "1 layers, ours 2"),
        ({"n_head": 2}, "2 heads, ours 4"),
        ({"vocab_size": 30}, "wte.weight is"),
        ({"n_positions": 8}, "8 positions, max_tokens=10"),
        ({"n_inner": 40}, "c_fc"),
        ({"activation_function": "relu"}, "activation relu"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused_and_nothing_copied(wrong, said) -> None:
    model = VisualGpt(_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=said) as refusal:
        model.initialise({"lm": _gpt2(**wrong)})
    assert "folder:made" in str(refusal.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_language_model_of_another_layout_is_refused() -> None:
    llama = CausalLm(
        CausalLmConfig(
            layout="llama", width=WIDTH, layers=LAYERS, heads=HEADS, vocab_size=VOCABULARY
        )
    )
    with pytest.raises(ConfigError, match="not of GPT-2's layout"):
        VisualGpt(_config()).initialise({"lm": _part(llama)})


def test_a_part_sees_for_it_and_never_changes() -> None:
    part = _part(VirTex(VirtexConfig(vision_widths=(8, 16), image_px=16, vocab_size=VOCABULARY)))
    model = VisualGpt(_config(vision="part"), {"vision": part})
    model.initialise({"vision": part})
    before = {name: value.clone() for name, value in part.module.vision.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model.loss(_batch()).total.backward()
    optimiser.step()
    after = part.module.vision.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(ConfigError, match='needs a part "vision"'):
        VisualGpt(_config(vision="part"))


def test_gpt2s_own_weights_learn_at_their_own_rate() -> None:
    model = VisualGpt(_config(language_lr_scale=0.2))
    names = {id(param): name for name, param in model.named_parameters()}
    held = {
        group["name"]: {names[id(param)] for param in group["params"]}
        for group in model.param_groups()
    }
    rates = {group["name"]: group["lr_scale"] for group in model.param_groups()}
    assert rates == {
        "language_matrices": 0.2, "language_vectors": 0.2, "seeing_matrices": 1.0, "seeing_vectors": 1.0,
    }  # fmt: skip
    gpt2 = set(_gpt2().module.transformer.state_dict())
    assert held["language_matrices"] | held["language_vectors"] == gpt2


def test_the_papers_preset_learns_gpt2_of_124_million_parameters_over_fixed_regions() -> None:
    """The paper gives no count of the whole; GPT-2's own is published, and the rest is worked out here."""
    with torch.device("meta"):
        tower = VisionSlot(resnet50(), 224, (0.0,) * 3, (1.0,) * 3)
        model = VisualGpt(VisualGptConfig.paper(), {"vision": _part(tower)})
    groups = {group["name"]: group["params"] for group in model.param_groups()}
    language = sum(
        param.numel() for name, params in groups.items() if "language" in name for param in params
    )
    assert language == 124_439_808
    width, inner, regions_width = 768, 2048, 2048
    encoder = regions_width * width + 3 * width
    encoder += 3 * (4 * (width**2 + width) + 2 * width * inner + inner + width + 4 * width)
    look_and_gates = 4 * (width**2 + width) + 3 * (2 * width**2 + width)
    learnt = sum(param.numel() for param in model.parameters() if param.requires_grad)
    assert learnt == language + encoder + 12 * look_and_gates
    assert not any(param.requires_grad for param in model.vision.parameters())


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"threshold": 0.5}, r"not in \[0, 0.5\)"),
        ({"threshold": float("nan")}, r"not in \[0, 0.5\)"),
        ({"width": 30}, "divides it"),
        ({"levels": 0}, "the paper has 3"),
        ({"dropout": 1.0}, "GPT-2 has 0.1"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)


def test_a_texts_first_token_and_padding_are_the_tokenizers(tiny_tokenizer) -> None:
    class Other:
        vocab_size, bos_id, pad_id = VOCABULARY, 7, 9

    assert _config().fitted((), tiny_tokenizer).bos_id == BOS_ID
    model = VisualGpt(_config().fitted((), Other()))
    read = []
    model.wte.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model.prefill(_pixels(2), prompts=[[5], []])
    assert read[0].tolist() == [[7, 5], [9, 7]]


def test_a_text_longer_than_the_positions_is_refused(model: VisualGpt) -> None:
    state, _, _ = model.prefill(_pixels())
    for _ in range(9):
        state, _ = model.step(state, torch.tensor([5, 5, 5]))
    with pytest.raises(TextTooLong, match="max_tokens"):
        model.step(state, torch.tensor([5, 5, 5]))
