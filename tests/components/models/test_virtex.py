"""What only VirTex owes: its six invariants, the paper's size, and writing with a cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.config import ConfigError
from components.data.batches import Batches, SplitImages
from components.data.text import Tokenizer
from components.models.virtex import BOS_ID, PAD_ID, DecoderLayer, TextTooLong, VirTex, VirtexConfig
from components.objectives.language import flipped, token_cross_entropy
from components.records import Batch, Row, Sample

VOCABULARY = 20
EOS = VOCABULARY - 1


def _config(**changes) -> VirtexConfig:
    return VirtexConfig(
        **{
            "vision_widths": (8, 16), "image_px": 16, "width": 32, "max_tokens": 10,
            "vocab_size": VOCABULARY, "dropout": 0.0, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def model() -> VirTex:
    torch.manual_seed(0)
    return VirTex(_config())


def _batch() -> Batch:
    tokens = torch.tensor(
        [[1, 5, 6, 7, 8, EOS, 0, 0], [1, 9, 10, EOS, 0, 0, 0, 0], [1, 4, 4, 5, EOS, 0, 0, 0]]
    )
    made = torch.Generator().manual_seed(0)
    return Batch(
        pixels_BCHW=torch.randint(0, 256, (3, 3, 16, 16), generator=made, dtype=torch.uint8),
        tokens_BT=tokens,
        lengths_B=torch.tensor([6, 4, 5]),
        groups_B=torch.arange(3),
        keys_B=2 * torch.arange(3),
        prompts_B=torch.ones(3, dtype=torch.long),
    )


def _hidden(model: VirTex, layers: nn.ModuleList, batch: Batch, tokens: torch.Tensor):
    memory = model._memory(batch.pixels_BCHW, None)
    x = model.embedding(tokens)
    for layer in layers:
        x, _ = layer(x, layer.image.read(memory))
    return x


def test_directions_share_words_and_output_but_no_layer(model: VirTex) -> None:
    assert model.output.weight is model.embedding.words.weight
    forward = {param.data_ptr() for param in model.forward_layers.parameters()}
    backward = {param.data_ptr() for param in model.backward_layers.parameters()}
    assert len(forward) == len(backward) > 0
    assert not forward & backward
    names = {name for name, _ in model.named_children()}
    assert names == {
        "vision", "projection", "embedding", "forward_layers", "backward_layers", "output",
    }  # fmt: skip


@pytest.mark.parametrize("direction", ["forward_layers", "backward_layers"])
def test_each_direction_alone_moves_the_image_tower(model: VirTex, direction: str) -> None:
    batch = _batch()
    tokens = batch.tokens_BT
    if direction == "backward_layers":
        tokens = flipped(tokens, batch.lengths_B)
    memory = model._memory(batch.pixels_BCHW, batch.keys_B)
    logits, real = model._direction(getattr(model, direction), memory, tokens)
    token_cross_entropy(logits, tokens[:, 1:][real]).backward()
    assert all(param.grad is not None for param in model.vision.parameters())
    assert sum(param.grad.abs().sum().item() for param in model.vision.parameters()) > 0
    silent = {"forward_layers", "backward_layers"} - {direction}
    assert all(param.grad is None for param in getattr(model, silent.pop()).parameters())


def test_the_loss_is_the_sum_of_both_means_over_real_tokens(model: VirTex) -> None:
    batch, parts = _batch(), []
    for layers, tokens in (
        (model.forward_layers, batch.tokens_BT),
        (model.backward_layers, flipped(batch.tokens_BT, batch.lengths_B)),
    ):
        log_p = torch.log_softmax(model.output(_hidden(model, layers, batch, tokens[:, :-1])), -1)
        chosen = log_p.gather(2, tokens[:, 1:, None])[..., 0]
        parts.append(-chosen[tokens[:, 1:] != PAD_ID].mean())
    loss = model.loss(batch)
    torch.testing.assert_close(loss.parts["forward"], parts[0].detach())
    torch.testing.assert_close(loss.parts["backward"], parts[1].detach())
    torch.testing.assert_close(loss.total, parts[0] + parts[1])
    assert parts[0].item() != parts[1].item()


def test_padding_changes_no_loss(model: VirTex) -> None:
    batch = _batch()
    padded = Batch(
        **{**vars(batch), "tokens_BT": torch.cat([batch.tokens_BT, torch.zeros(3, 2).long()], 1)}
    )
    torch.testing.assert_close(model.loss(padded).total, model.loss(batch).total)


def test_what_the_backward_decoder_reads_is_the_caption_turned_round(model: VirTex) -> None:
    batch, read = _batch(), []
    model.embedding.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model.loss(batch)
    forward, backward = read
    assert forward[0].tolist() == [1, 5, 6, 7, 8]
    assert backward[0].tolist() == [EOS, 8, 7, 6, 5]
    assert backward[1].tolist() == [EOS, 10, 9, 1, 0]
    turned = flipped(batch.tokens_BT, batch.lengths_B)
    assert torch.equal(flipped(turned, batch.lengths_B), batch.tokens_BT)


@pytest.mark.parametrize("direction", ["forward_layers", "backward_layers"])
def test_no_direction_sees_the_word_it_must_predict(model: VirTex, direction: str) -> None:
    model.eval()
    batch, layers = _batch(), getattr(model, direction)
    tokens = batch.tokens_BT[:, :6]
    changed = tokens.clone()
    changed[:, 3] = 12
    one, other = (_hidden(model, layers, batch, text) for text in (tokens, changed))
    assert torch.equal(one[:, :3], other[:, :3])
    assert ((one[:, 3:] - other[:, 3:]).abs().amax(dim=-1) > 1e-6).all()


def test_every_mirrored_image_comes_with_left_and_right_swapped() -> None:
    """Half of the draws are mirrored, and never one without the other (in data/batches, asked for by the spec)."""
    spec = VirTex(_config(max_tokens=24)).batch_spec()
    assert spec.flip
    assert not VirTex(_config(flip=False)).batch_spec().flip
    captions = [f"mark {number} at the left" for number in range(8)]
    tokenizer = Tokenizer.train(captions, 300)
    pixels = torch.full((8, 3, 16, 16), 255, dtype=torch.uint8)
    pixels[..., :4] = 0
    rows = [_row(number, caption) for number, caption in enumerate(captions)]
    images = SplitImages(split="train", rows=rows, pixels_NCHW=pixels)
    batches, mirrored = Batches(images, spec, tokenizer, 8, seed=0), []
    for step in range(50):
        batch = batches.batch(step)
        for picture, tokens, key in zip(
            batch.pixels_BCHW, batch.tokens_BT, batch.keys_B.tolist(), strict=True
        ):
            dark_right = bool((picture[..., -4:] == 0).all())
            text = tokenizer.decode(tokens.tolist())
            assert text.endswith("right" if dark_right else "left")
            assert key % 2 == dark_right
            mirrored.append(dark_right)
    assert 0.42 < sum(mirrored) / 400 < 0.58


def _row(number: int, caption: str) -> Row:
    sample = Sample(
        id=str(number), image=b"", captions=(caption,), split="train", concept="mark", label="mark",
        concept_family="mark", origin="made", license="CC0-1.0",
    )  # fmt: skip
    return Row(
        key=number, sample=sample, shard="", offset_bytes=0, size_bytes=0, sha256="",
        pixels_sha256=str(number), width_px=16, height_px=16,
    )  # fmt: skip


def test_the_image_tower_learns_at_its_own_rate_and_only_text_norms_and_biases_are_spared() -> None:
    model = VirTex(_config(vision_lr_scale=200.0))
    groups = {group["name"]: group for group in model.param_groups()}
    names = {id(param): name for name, param in model.named_parameters()}
    held = {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}
    assert held["vision"] == {name for name in names.values() if name.startswith("vision.")}
    assert groups["vision"]["lr_scale"] / groups["text"]["lr_scale"] == 200.0
    assert groups["vision"]["weight_decay"]
    assert groups["text"]["weight_decay"]
    assert not groups["text_spared"]["weight_decay"]
    assert {
        "embedding.norm.weight",
        "embedding.norm.bias",
        "forward_layers.0.norms.2.weight",
        "backward_layers.0.words.inward.bias",
        "backward_layers.0.inner.3.bias",
    } <= held["text_spared"]
    assert held["text"] == {
        "projection.weight", "projection.bias", "embedding.words.weight", "embedding.places.weight",
        "output.bias",
    } | {
        f"{side}_layers.0.{part}.weight"
        for side in ("forward", "backward")
        for part in (
            "words.inward", "words.outward", "image.query", "image.memory", "image.outward",
            "inner.0", "inner.3",
        )
    }  # fmt: skip


def test_the_papers_preset_has_resnet_50_and_the_papers_heads() -> None:
    with torch.device("meta"):
        model = VirTex(VirtexConfig.paper())
    # ResNet-50 is published with 25.557 M parameters, 2.049 M of them in the classifier we leave out.
    tower = sum(param.numel() for param in model.vision.parameters())
    assert tower == 25_557_032 - 2_049_000
    width = 2048
    layer = 2 * (4 * width**2 + 4 * width) + 8 * width**2 + 5 * width + 3 * 2 * width
    words = 10_000 * (width + 1) + 30 * width + 2 * width
    head = width * width + width + 2 * layer + words
    assert sum(param.numel() for param in model.parameters()) == tower + head
    assert model.vision.map_tokens == 49


def test_a_layer_equals_torchs_decoder_layer_with_the_same_weights() -> None:
    """torch.nn.TransformerDecoderLayer, post-norm with GELU, is what the reference implementation is made of."""
    torch.manual_seed(0)
    ours = DecoderLayer(32, 4, dropout=0.0)
    theirs = nn.TransformerDecoderLayer(
        32, 4, dim_feedforward=128, dropout=0.0, activation="gelu", batch_first=True
    )
    for param in ours.parameters():
        nn.init.normal_(param, std=0.3)
    image = torch.cat([ours.image.query.weight, ours.image.memory.weight])
    image_bias = torch.cat([ours.image.query.bias, ours.image.memory.bias])
    pairs = {
        theirs.self_attn.in_proj_weight: ours.words.inward.weight,
        theirs.self_attn.in_proj_bias: ours.words.inward.bias,
        theirs.multihead_attn.in_proj_weight: image,
        theirs.multihead_attn.in_proj_bias: image_bias,
    }
    for module, mine in (
        (theirs.self_attn.out_proj, ours.words.outward),
        (theirs.multihead_attn.out_proj, ours.image.outward),
        (theirs.linear1, ours.inner[0]),
        (theirs.linear2, ours.inner[3]),
        (theirs.norm1, ours.norms[0]),
        (theirs.norm2, ours.norms[1]),
        (theirs.norm3, ours.norms[2]),
    ):
        pairs |= {module.weight: mine.weight, module.bias: mine.bias}
    words, memory = torch.randn(3, 6, 32), torch.randn(3, 9, 32)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    with torch.no_grad():
        for their, mine in pairs.items():
            their.copy_(mine)
        wanted = theirs(words, memory, tgt_mask=mask)
        found, _ = ours(words, ours.image.read(memory))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_writing_with_the_cache_gives_the_logits_of_training(model: VirTex) -> None:
    model.eval()
    batch = _batch()
    tokens = batch.tokens_BT[:, :4]
    with torch.no_grad():
        wanted = _hidden(model, model.forward_layers, batch, tokens)
        state, logits, hidden = model.prefill(batch.pixels_BCHW)
        found, states = [logits], [hidden[:, 0]]
        for at in range(1, 4):
            state, hidden = model.step(state, tokens[:, at])
            found.append(model.logits(hidden))
            states.append(hidden)
    assert (tokens[:, 0] == BOS_ID).all()
    torch.testing.assert_close(torch.stack(states, dim=1), wanted)
    torch.testing.assert_close(torch.stack(found, dim=1), model.output(wanted))
    assert state.words.length == 4


def test_reordered_rows_carry_their_words_and_their_image(model: VirTex) -> None:
    model.eval()
    pixels, words = _batch().pixels_BCHW, torch.tensor([5, 6, 7, 8, 9, 10])
    with torch.no_grad():
        state, _, _ = model.prefill(pixels)
        state, plain = model.step(state.reorder(torch.arange(3).repeat_interleave(2)), words)
        # Image 0 leaves; image 2 goes first with its rows turned; image 1 keeps its second row twice.
        order = torch.tensor([5, 4, 3, 3])
        _, moved = model.step(state.reorder(order), torch.tensor([4, 4, 4, 4]))
        _, straight = model.step(state, torch.tensor([4] * 6))
    torch.testing.assert_close(moved, straight[order])
    assert not torch.allclose(plain[4], plain[5])


@pytest.mark.parametrize("order", [[0, 2, 1, 3, 4, 5], [1, 3, 5], [0, 0, 1, 4, 4, 5, 5], [2]])
def test_rows_in_any_order_and_number_read_their_own_image(model: VirTex, order: list[int]) -> None:
    model.eval()
    with torch.no_grad():
        state, _, _ = model.prefill(_batch().pixels_BCHW)
        state, _ = model.step(
            state.reorder(torch.arange(3).repeat_interleave(2)), torch.tensor([5, 6, 7, 8, 9, 10])
        )
        words = torch.full((len(order),), 4)
        _, moved = model.step(state.reorder(torch.tensor(order)), words)
        _, straight = model.step(state, torch.full((6,), 4))
    torch.testing.assert_close(moved, straight[order])


def test_prompts_of_several_lengths_read_as_each_would_alone(model: VirTex) -> None:
    model.eval()
    pixels, prompts = _batch().pixels_BCHW, [[5, 6, 7], [], [8]]
    words = torch.tensor([9, 10, 11])
    with torch.no_grad():
        state, first, hidden = model.prefill(pixels, prompts=prompts)
        _, last = model.step(state, words)
        second = model.logits(last)
        for row, prompt in enumerate(prompts):
            alone, logits, states = model.prefill(pixels[row : row + 1], prompts=[prompt])
            torch.testing.assert_close(first[row], logits[0])
            torch.testing.assert_close(hidden[row, -len(prompt) - 1 :], states[0])
            assert not hidden[row, : -len(prompt) - 1].any()
            _, states = model.step(alone, words[row : row + 1])
            logits = model.logits(states)
            torch.testing.assert_close(second[row], logits[0])
            torch.testing.assert_close(last[row], states[0])


def test_one_prompt_an_image_is_asked_for(model: VirTex) -> None:
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        model.prefill(_batch().pixels_BCHW, prompts=[[5], [6]])


def test_a_text_longer_than_the_positions_is_refused(model: VirTex) -> None:
    state, _, _ = model.prefill(_batch().pixels_BCHW)
    for _ in range(9):
        state, _ = model.step(state, torch.tensor([5, 5, 5]))
    with pytest.raises(TextTooLong, match="max_tokens"):
        model.step(state, torch.tensor([5, 5, 5]))


@pytest.mark.parametrize(
    ("wrong", "advice"), [({"width": 30}, "divides it"), ({"dropout": 1.0}, "the paper has 0.1")]
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)
