"""ALIGN from and to transformers' layout, through small checkpoints that its own classes write and read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.models.align import Align, AlignConfig
from components.models.backbones import IMAGENET_MEAN, IMAGENET_STD
from components.models.hub_align import from_pretrained, save_pretrained
from components.models.hub_layout import HubLayoutRefused

transformers = pytest.importorskip("transformers")

VOCABULARY = 40
EOS = VOCABULARY - 1
POOLER = {"text_model.pooler.dense.weight", "text_model.pooler.dense.bias"}


def _theirs(text: dict | None = None, vision: dict | None = None, *, image_px: int = 64):
    """transformers' AlignModel, tiny, with every weight and every running statistic random."""
    torch.manual_seed(5)
    config = transformers.AlignConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16,
            **(text or {}),
        },
        vision_config={
            "width_coefficient": 0.25, "depth_coefficient": 0.34, "image_size": image_px,
            "hidden_dim": 80, **(vision or {}),
        },
        projection_dim=80,
        temperature_init_value=0.5,
    )  # fmt: skip
    model = transformers.AlignModel(config).eval()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if param.ndim == 4:
                torch.nn.init.kaiming_normal_(param)
            elif name != "temperature":
                param.add_(0.1 * torch.randn_like(param))
    _settle(model, model.get_image_features, image_px)
    return model


@torch.no_grad()
def _settle(model: torch.nn.Module, read, image_px: int = 64) -> None:
    """Let batch norms take the statistics of random images: as they start, all images end in one vector."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    read(torch.randn(16, 3, image_px, image_px, generator=torch.Generator().manual_seed(3)))
    model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _theirs().save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


@torch.no_grad()
def _same(ours: Align, theirs, *, image_px: int = 64, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> None:
    made = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, image_px, image_px), generator=made, dtype=torch.uint8)
    tokens = torch.randint(2, EOS, (4, 12), generator=made)
    lengths = torch.tensor([5, 12, 3, 8])
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[0], row[length - 1], row[length:] = 1, EOS, 0
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))
    wanted = theirs(
        input_ids=tokens,
        attention_mask=(torch.arange(12) < lengths[:, None]).long(),
        pixel_values=(pixels / 255 - mean) / std,
        return_loss=True,
    )
    image, text = ours.embed_images(pixels), ours.embed_texts(tokens, lengths)
    torch.testing.assert_close(image, wanted.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text, wanted.text_embeds, atol=1e-5, rtol=1e-5)
    logits = image @ text.T * ours.cosine_scale()
    torch.testing.assert_close(logits, wanted.logits_per_image, atol=1e-5, rtol=1e-5)
    smoothed = [
        torch.nn.functional.cross_entropy(side, torch.arange(4), label_smoothing=0.1)
        for side in (logits, logits.T)
    ]
    torch.testing.assert_close(sum(smoothed) / 2, wanted.loss, atol=1e-5, rtol=1e-5)
    assert (image[0] - image[1]).abs().max() > 1e-3
    assert (text[0] - text[1]).abs().max() > 1e-3


def test_what_transformers_wrote_gives_the_same_outputs_here(folder: Path) -> None:
    ours = from_pretrained(folder)
    assert not ours.training
    _same(ours, _theirs())


def test_odd_sides_pad_as_their_config_says(tmp_path: Path) -> None:
    theirs = _theirs(vision={"depthwise_padding": [2]}, image_px=57)
    theirs.save_pretrained(tmp_path / "odd")
    ours = from_pretrained(tmp_path / "odd")
    assert ours.config.square_padding == (2,)
    _same(ours, theirs, image_px=57)


def test_what_we_wrote_gives_the_same_outputs_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    ours = Align(
        AlignConfig(
            text_width=32, text_layers=2, max_tokens=12, positions=16, vocab_size=VOCABULARY
        )
    )
    _settle(ours, ours.vision.tower)
    save_pretrained(ours, tmp_path / "ours")
    theirs, report = transformers.AlignModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert set(report["missing_keys"]) == POOLER
    assert not report["unexpected_keys"]
    _same(ours, theirs.eval())


def test_there_and_back_is_bitwise(folder: Path, tmp_path: Path) -> None:
    save_pretrained(from_pretrained(folder), tmp_path / "back")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() - after.keys() == POOLER
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_colours_are_normalised_as_the_folders_processor_does(folder: Path) -> None:
    """With an offset: x / 127.5 - 1, which is the mean 0.5 and deviation 0.5 of colours in [0, 1]."""
    made = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(made))
    ours = from_pretrained(folder)
    assert ours.config.pixel_mean == pytest.approx((0.5,) * 3)
    assert ours.config.pixel_std == pytest.approx((0.5,) * 3)
    _same(ours, _theirs(), mean=(0.5,) * 3, std=(0.5,) * 3)
    both = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(both))
    assert from_pretrained(folder).config.pixel_mean == pytest.approx((0.1, 0.2, 0.3))
    assert from_pretrained(folder).config.pixel_std == pytest.approx((0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("text", "vision", "name"),
    [
        ({"hidden_act": "relu"}, {}, "text_config has hidden_act='relu'"),
        ({"layer_norm_eps": 1e-5}, {}, "text_config has layer_norm_eps=1e-05"),
        ({}, {"pooling_type": "max"}, "vision_config has pooling_type='max'"),
        ({}, {"kernel_sizes": [3, 3, 5, 3, 5, 3, 3]}, "vision_config has kernel_sizes"),
    ],
)
def test_a_setting_our_layers_lack_is_refused(
    tmp_path: Path, text: dict, vision: dict, name: str
) -> None:
    _theirs(text, vision).save_pretrained(tmp_path / "other")
    with pytest.raises(HubLayoutRefused, match=name):
        from_pretrained(tmp_path / "other")


def test_a_projection_of_another_width_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"projection_dim": 64}))
    with pytest.raises(HubLayoutRefused, match=r"projection_dim=64.*80"):
        from_pretrained(folder)


def test_weights_of_another_shape_are_refused_by_name(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 41
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(HubLayoutRefused, match=r"word_embeddings.weight.*\(40, 32\).*\(41, 32\)"):
        from_pretrained(folder)


def test_a_clip_is_refused_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(HubLayoutRefused, match=r'model_type "clip".*"align"'):
        from_pretrained(tmp_path)


def test_a_tower_that_transformers_does_not_know_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(HubLayoutRefused, match='vision="lite0"'):
        save_pretrained(Align(AlignConfig(vision="lite0")), tmp_path / "lite0")
