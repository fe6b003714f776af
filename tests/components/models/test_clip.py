"""What only CLIP owes: its six invariants, the paper's size, and equality with transformers' CLIPModel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.config import ConfigError
from components.models.backbones import CLIP_MEAN, CLIP_STD
from components.models.clip import Clip, ClipConfig, EosMissing
from components.records import Batch

VOCABULARY = 40
EOS = VOCABULARY - 1


def _config(**changes) -> ClipConfig:
    return ClipConfig(
        **{
            "vision_widths": (8, 16, 16), "image_px": 32, "text_width": 32, "text_layers": 2,
            "max_tokens": 12, "embed_width": 24, "vocab_size": VOCABULARY, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def model() -> Clip:
    torch.manual_seed(0)
    return Clip(_config())


def _batch(rows: int = 6) -> Batch:
    made = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 10, (rows,), generator=made)
    tokens = torch.randint(2, EOS, (rows, 12), generator=made)
    tokens[:, 0] = 1
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[length - 1] = EOS
        row[length:] = 0
    return Batch(
        pixels_BCHW=torch.randint(0, 256, (rows, 3, 32, 32), generator=made, dtype=torch.uint8),
        tokens_BT=tokens,
        lengths_B=lengths,
        groups_B=torch.arange(rows),
        keys_B=2 * torch.arange(rows),
        prompts_B=torch.ones(rows, dtype=torch.long),
    )


def test_loss_is_info_nce_of_the_two_towers_at_the_exponential_of_the_scale(model: Clip) -> None:
    batch = _batch()
    model.eval()
    image = model.embed_images(batch.pixels_BCHW)
    text = model.embed_texts(batch.tokens_BT, batch.lengths_B)
    logits, own = model.log_scale.exp() * image @ text.T, torch.arange(6)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(model.loss(batch).total, wanted)
    assert model.loss(batch).parts["scale"].item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_a_sigmoid_judges_each_pair_alone_with_siglips_scale_and_bias() -> None:
    torch.manual_seed(0)
    model, batch = Clip(_config(loss="sigmoid")).eval(), _batch()
    logits = (
        10
        * model.embed_images(batch.pixels_BCHW)
        @ model.embed_texts(batch.tokens_BT, batch.lengths_B).T
        - 10
    )
    found = model.loss(batch)
    torch.testing.assert_close(
        found.total, -F.logsigmoid((2 * torch.eye(6) - 1) * logits).sum() / 6
    )
    assert found.parts["bias"].item() == -10.0
    assert model.cosine_scale().item() == pytest.approx(10.0)
    found.total.backward()
    assert model.bias.grad.abs() > 0


def test_a_softmax_has_no_bias_and_its_weights_no_place_for_one(model: Clip) -> None:
    assert "bias" not in model.state_dict()
    assert "bias" in Clip(_config(loss="sigmoid")).state_dict()


def test_embeddings_have_length_one(model: Clip) -> None:
    batch = _batch()
    for embedding in (
        model.embed_images(batch.pixels_BCHW),
        model.embed_texts(batch.tokens_BT, batch.lengths_B),
    ):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(6))


def test_rows_of_one_group_do_not_push_each_other(model: Clip) -> None:
    batch = _batch()
    together = Batch(**{**vars(batch), "groups_B": torch.zeros(6, dtype=torch.long)})
    assert model.loss(together).total.item() == 0.0
    assert model.loss(batch).total.item() > 0.0


def test_a_step_past_the_bound_ends_at_ln_100_and_the_gradient_there_lives(model: Clip) -> None:
    with torch.no_grad():
        model.log_scale.fill_(5.0)
    model.after_step()
    assert model.log_scale.item() == pytest.approx(math.log(100))
    model.loss(_batch()).total.backward()
    assert model.log_scale.grad.abs().item() > 0
    with torch.no_grad():
        model.log_scale.fill_(-1.0)
    model.after_step()
    assert model.log_scale.item() == 0.0


def test_text_is_read_at_its_end_and_nowhere_after(model: Clip) -> None:
    batch = _batch()
    tokens, lengths = batch.tokens_BT, batch.lengths_B
    feature = model.text(tokens)
    after = tokens.clone()
    before = tokens.clone()
    for row, length in enumerate(lengths.tolist()):
        after[row, length:] = 7
        before[row, 1] = 2 + before[row, 1] % 30
    assert not torch.equal(after, tokens)
    assert torch.equal(model.text(after), feature)
    assert ((model.text(before) - feature).abs().amax(dim=1) > 1e-4).all()


def test_cutting_to_the_longest_text_changes_nothing(model: Clip) -> None:
    batch = _batch()
    assert int(batch.lengths_B.max()) < batch.tokens_BT.shape[1]
    whole = F.normalize(model.text(batch.tokens_BT), dim=-1)
    torch.testing.assert_close(model.embed_texts(batch.tokens_BT, batch.lengths_B), whole)


def test_the_end_is_found_by_equality_not_by_the_largest_id(model: Clip) -> None:
    # The first <eos> counts, though a second one stands later.
    tokens = torch.tensor([[1, 5, EOS, 0, 0], [1, 5, EOS, 6, EOS]])
    one, other = model.text(tokens)
    assert torch.equal(one, other)


def test_a_text_without_end_is_refused(model: Clip) -> None:
    with pytest.raises(EosMissing, match="own tokenizer"):
        model.embed_texts(torch.tensor([[1, 5, 6, 7]]), torch.tensor([4]))


def test_a_batch_of_one_has_nothing_to_learn(model: Clip) -> None:
    assert model.loss(_batch(1)).total.item() == 0.0


def test_an_ensemble_of_one_template_is_the_plain_embedding(model: Clip) -> None:
    batch = _batch()
    plain = model.embed_texts(batch.tokens_BT, batch.lengths_B)
    ensemble = F.normalize(torch.stack([plain]).mean(dim=0), dim=-1)
    torch.testing.assert_close(ensemble, plain)


@pytest.mark.parametrize(("preset", "published"), [("small", 151.3e6), ("paper", 427.9e6)])
def test_presets_have_the_published_number_of_parameters(preset: str, published: float) -> None:
    with torch.device("meta"):
        model = Clip(ClipConfig.preset(preset))
    count = sum(param.numel() for param in model.parameters())
    assert count == pytest.approx(published, rel=0.02)


def test_only_matrices_decay(model: Clip) -> None:
    groups = {group["name"]: group for group in model.param_groups()}
    assert all(param.ndim >= 2 for param in groups["matrices"]["params"])
    assert groups["matrices"]["weight_decay"]
    assert any(param is model.log_scale for param in groups["rest"]["params"])
    assert not groups["rest"]["weight_decay"]


def test_weights_start_as_the_paper_says() -> None:
    torch.manual_seed(0)
    config = _config(text_width=128, text_layers=3, text_heads=4, vocab_size=2000)
    text = Clip(config).text
    block = text.blocks[0]
    wanted = {
        text.tokens.weight: 0.02,
        text.positions: 0.01,
        text.projection.weight: 128**-0.5,
        block.attention.inward.weight: 128**-0.5,
        block.attention.outward.weight: 128**-0.5 * 6**-0.5,
        block.layers[0].weight: 256**-0.5,
        block.layers[2].weight: 128**-0.5 * 6**-0.5,
    }
    for weight, std in wanted.items():
        assert weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"vision": "vit", "image_px": 50, "patch_px": 16}, "nearest below is 48"),
        ({"text_width": 30, "text_heads": 4}, "text_heads=4 does not divide the width 30"),
        ({"vision_widths": (8, 18)}, "vision_heads=4 does not divide the width 18"),
        ({"vision": "lite0", "vision_heads": 3}, "does not divide the width 320"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)


def test_features_equal_those_of_transformers_with_the_same_weights() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = _their_model(transformers)
    ours = Clip(
        _config(
            vision="vit", image_px=32, patch_px=8, vision_width=48, vision_layers=3, vision_heads=4
        )
    )
    ours.load_state_dict(_translated(theirs.state_dict()))
    batch = _batch()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        outputs = theirs(
            input_ids=batch.tokens_BT, pixel_values=(batch.pixels_BCHW / 255 - mean) / std
        )
        image = ours.embed_images(batch.pixels_BCHW)
        text = ours.embed_texts(batch.tokens_BT, batch.lengths_B)
    torch.testing.assert_close(image, outputs.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text, outputs.text_embeds, atol=1e-5, rtol=1e-5)
    assert (image[0] - image[1]).abs().max() > 1e-3
    assert (text[0] - text[1]).abs().max() > 1e-3


def _their_model(transformers):
    """transformers' CLIPModel, tiny, with every weight random (its own start has zero biases, which hide a mix-up)."""
    torch.manual_seed(5)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 12,
        "eos_token_id": EOS, "bos_token_id": 1, "pad_token_id": 0, "hidden_act": "quick_gelu",
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "hidden_act": "quick_gelu",
    }  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn_like(param))
    return model


def _translated(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their names to ours; queries, keys and values become one matrix."""
    ours = {
        "log_scale": theirs["logit_scale"],
        "image.projection.weight": theirs["visual_projection.weight"],
        "image.slot.tower.class_token": theirs["vision_model.embeddings.class_embedding"],
        "image.slot.tower.patches.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
        "image.slot.tower.positions": theirs["vision_model.embeddings.position_embedding.weight"],
        "text.projection.weight": theirs["text_projection.weight"],
        "text.tokens.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "text.positions": theirs["text_model.embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"image.slot.tower.norm_before.{kind}"] = theirs[f"vision_model.pre_layrnorm.{kind}"]
        ours[f"image.slot.tower.norm_after.{kind}"] = theirs[f"vision_model.post_layernorm.{kind}"]
        ours[f"text.norm_after.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
    for mine, their, layers in (("image.slot.tower", "vision_model", 3), ("text", "text_model", 2)):
        for number in range(layers):
            block, layer = f"{mine}.blocks.{number}", f"{their}.encoder.layers.{number}"
            for kind in ("weight", "bias"):
                attention = f"{layer}.self_attn"
                ours[f"{block}.attention.inward.{kind}"] = torch.cat(
                    [theirs[f"{attention}.{part}_proj.{kind}"] for part in "qkv"]
                )
                ours[f"{block}.attention.outward.{kind}"] = theirs[f"{attention}.out_proj.{kind}"]
                ours[f"{block}.norm_attention.{kind}"] = theirs[f"{layer}.layer_norm1.{kind}"]
                ours[f"{block}.norm_layers.{kind}"] = theirs[f"{layer}.layer_norm2.{kind}"]
                ours[f"{block}.layers.0.{kind}"] = theirs[f"{layer}.mlp.fc1.{kind}"]
                ours[f"{block}.layers.2.{kind}"] = theirs[f"{layer}.mlp.fc2.{kind}"]
    return ours
