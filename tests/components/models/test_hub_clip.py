"""CLIP from and to transformers' layout, through small checkpoints that its own classes write and read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.models.backbones import CLIP_MEAN, CLIP_STD
from components.models.clip import Clip, ClipConfig
from components.models.hub_clip import from_pretrained, save_pretrained
from components.models.hub_layout import HubLayoutRefused

transformers = pytest.importorskip("transformers")

VOCABULARY = 40
EOS = VOCABULARY - 1


def _theirs(**text):
    """transformers' CLIPModel, tiny, with every weight random."""
    torch.manual_seed(5)
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 12,
            "eos_token_id": EOS, "bos_token_id": 1, "pad_token_id": 0, **text,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
        },
        projection_dim=24,
    )  # fmt: skip
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn_like(param))
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _theirs().save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=made, dtype=torch.uint8)
    tokens = torch.randint(2, EOS, (4, 12), generator=made)
    lengths = torch.tensor([5, 12, 3, 8])
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[0], row[length - 1], row[length:] = 1, EOS, 0
    return pixels, tokens, lengths


@torch.no_grad()
def _same(ours: Clip, theirs) -> None:
    pixels, tokens, lengths = _inputs()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
    wanted = theirs(input_ids=tokens, pixel_values=(pixels / 255 - mean) / std)
    image, text = ours.embed_images(pixels), ours.embed_texts(tokens, lengths)
    torch.testing.assert_close(image, wanted.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text, wanted.text_embeds, atol=1e-5, rtol=1e-5)
    logits = ours.log_scale.exp() * image @ text.T
    torch.testing.assert_close(logits, wanted.logits_per_image, atol=1e-4, rtol=1e-5)
    assert (text[0] - text[1]).abs().max() > 1e-3


def test_what_transformers_wrote_gives_the_same_features_here(folder: Path) -> None:
    ours = from_pretrained(folder)
    assert not ours.training
    _same(ours, _theirs())


def test_what_we_wrote_gives_the_same_features_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    ours = Clip(
        ClipConfig(
            vision="vit", image_px=32, patch_px=8, vision_width=48, vision_layers=2, vision_heads=4,
            text_width=32, text_layers=3, max_tokens=12, embed_width=24, vocab_size=VOCABULARY,
        )
    ).eval()  # fmt: skip
    save_pretrained(ours, tmp_path / "ours")
    theirs, report = transformers.CLIPModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    _same(ours, theirs.eval())


def test_there_and_back_is_bitwise(folder: Path, tmp_path: Path) -> None:
    save_pretrained(from_pretrained(folder), tmp_path / "back")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_legacy_eos_of_2_reads_the_same_place_and_is_never_written(tmp_path: Path) -> None:
    """With 2 transformers pools at the largest id of a text: right here, where `<eos>` is the last of all ids."""
    theirs = _theirs(eos_token_id=2)
    theirs.save_pretrained(tmp_path / "legacy")
    ours = from_pretrained(tmp_path / "legacy")
    _same(ours, theirs)
    save_pretrained(ours, tmp_path / "mended")
    written = json.loads((tmp_path / "mended" / "config.json").read_text())
    assert written["text_config"]["eos_token_id"] == EOS
    _same(ours, transformers.CLIPModel.from_pretrained(tmp_path / "mended").eval())


def test_a_text_that_ends_with_another_id_is_refused(tmp_path: Path) -> None:
    _theirs(eos_token_id=7).save_pretrained(tmp_path / "other")
    with pytest.raises(HubLayoutRefused, match=r"eos_token_id=7.*39"):
        from_pretrained(tmp_path / "other")


def test_another_activation_is_refused(tmp_path: Path) -> None:
    _theirs(hidden_act="gelu").save_pretrained(tmp_path / "gelu")
    with pytest.raises(HubLayoutRefused, match="text_config has hidden_act='gelu'"):
        from_pretrained(tmp_path / "gelu")


def test_a_bias_that_clipmodel_has_no_place_for_is_not_dropped(tmp_path: Path) -> None:
    model = Clip(ClipConfig(vision="vit", image_px=32, vocab_size=VOCABULARY, loss="sigmoid"))
    with pytest.raises(HubLayoutRefused, match=r'loss="sigmoid".*no place for its bias'):
        save_pretrained(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_transformers_left_out_are_its_defaults(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for section in ("text_config", "vision_config"):
        del config[section]["hidden_act"], config[section]["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    _same(from_pretrained(folder), _theirs())


def test_weights_in_several_files_are_read(folder: Path, tmp_path: Path) -> None:
    _theirs().save_pretrained(tmp_path / "cut", max_shard_size="50KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 1
    _same(from_pretrained(tmp_path / "cut"), _theirs())


def test_a_folder_of_another_model_is_refused_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(HubLayoutRefused, match=r'model_type "bert".*"clip"'):
        from_pretrained(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HubLayoutRefused, match=r"config\.json cannot be read"):
        from_pretrained(tmp_path)


def test_tensors_of_another_shape_are_refused_by_name(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 41
    config["text_config"]["eos_token_id"] = 40
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(HubLayoutRefused, match=r"token_embedding.weight.*\(40, 32\).*\(41, 32\)"):
        from_pretrained(folder)


@pytest.mark.parametrize(("word", "change"), [("missing", "pop"), ("foreign", "add")])
def test_missing_and_foreign_tensors_are_refused_by_name(
    folder: Path, word: str, change: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    if change == "pop":
        del tensors["text_projection.weight"]
    else:
        tensors["stranger.weight"] = torch.zeros(2)
    save_file(tensors, folder / "model.safetensors")
    name = "text_projection.weight" if change == "pop" else "stranger.weight"
    with pytest.raises(HubLayoutRefused, match=rf"{word} \['{name}'\]"):
        from_pretrained(folder)


def test_a_damaged_weights_file_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(HubLayoutRefused, match=r"model\.safetensors cannot be read"):
        from_pretrained(folder)


def test_a_tower_that_transformers_does_not_know_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(HubLayoutRefused, match='vision="conv"'):
        save_pretrained(Clip(ClipConfig.tiny()), tmp_path / "conv")
    assert not (tmp_path / "conv").exists()


def test_a_folder_that_holds_a_model_is_not_written_over(folder: Path) -> None:
    with pytest.raises(HubLayoutRefused, match="holds a model already"):
        save_pretrained(from_pretrained(folder), folder)
