"""Weights in shards are the weights of one file, for each family that reads a folder; an index stays inside of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

from components.config import ConfigError
from components.models import hub_align, hub_clip, hub_visualbert, lm_folder, minilm
from components.models.align import Align, AlignConfig
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.clip import Clip, ClipConfig
from components.models.hub_layout import HubLayoutRefused, weight_files, weights_digest
from components.models.visualbert import VisualBert, VisualBertConfig

SEEING = {"vision": "conv", "vision_widths": (8, 16), "image_px": 16, "max_tokens": 10}


def _clip(folder: Path) -> Callable[[], nn.Module]:
    config = ClipConfig(
        vision="vit", image_px=16, patch_px=8, vision_width=16, vision_layers=1, vision_heads=2,
        text_width=16, text_layers=1, text_heads=2, embed_width=8, max_tokens=10, vocab_size=40,
    )  # fmt: skip
    hub_clip.save_pretrained(Clip(config), folder)
    return lambda: hub_clip.from_pretrained(folder)


def _align(folder: Path) -> Callable[[], nn.Module]:
    config = AlignConfig(text_width=32, text_layers=1, max_tokens=12, positions=16, vocab_size=40)
    hub_align.save_pretrained(Align(config), folder)
    return lambda: hub_align.from_pretrained(folder)


def _visualbert(folder: Path) -> Callable[[], nn.Module]:
    config = VisualBertConfig(width=32, layers=1, heads=4, positions=20, vocab_size=40, **SEEING)
    hub_visualbert.save_pretrained(VisualBert(config), folder)

    def read() -> nn.Module:
        torch.manual_seed(1)  # its tower is not in the folder
        return hub_visualbert.from_pretrained(folder, **SEEING)

    return read


def _bert(folder: Path) -> Callable[[], nn.Module]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = BertConfig(vocab_size=12, intermediate_size=128, max_position_embeddings=16, **sizes)
    BertModel(config).save_pretrained(folder)

    def read() -> nn.Module:
        hub = minilm.hub_layout.read_config(folder, "bert")
        module = minilm.SentenceEncoder(minilm.config_of(hub))
        names = minilm.names(module.config, "")
        minilm.hub_layout.load(module, folder, names, ignored=minilm.IGNORED)
        return module

    return read


def _lm(folder: Path) -> Callable[[], nn.Module]:
    config = CausalLmConfig(width=32, layers=2, heads=4, positions=24, max_tokens=16, vocab_size=40)
    CausalLm(config).model.save_pretrained(folder)
    return lambda: lm_folder.read_model(folder)


@pytest.fixture(params=[_clip, _align, _visualbert, _bert, _lm], ids=lambda made: made.__name__)
def reads(request, tmp_path: Path) -> Callable[[], nn.Module]:
    torch.manual_seed(0)
    return request.param(tmp_path)


def _cut(folder: Path, names: tuple[str, ...] = ("a.safetensors", "b.safetensors")) -> None:
    """Every second tensor into another file, and the index that says so."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {name: names[number % len(names)] for number, name in enumerate(sorted(whole))}
    for file in names:
        some = {name: whole[name] for name in placed if placed[name] == file}
        save_file(some, folder / file, metadata={"format": "pt"})
    _index(folder, placed)


def _index(folder: Path, placed: object) -> None:
    text = json.dumps({"metadata": {}, "weight_map": placed})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_give_the_model_of_the_one_file(reads, tmp_path: Path) -> None:
    whole = reads().state_dict()
    _cut(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    cut = reads().state_dict()
    assert whole.keys() == cut.keys()
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    "name", ["../b.safetensors", "/etc/b.safetensors", "deep/b.safetensors", "..", "", "b.bin"]
)
def test_an_index_that_leads_elsewhere_is_refused_by_the_name_it_lists(
    reads, tmp_path: Path, name: str
) -> None:
    _cut(tmp_path)
    _index(tmp_path, {"one": "a.safetensors", "other": name})
    with pytest.raises((HubLayoutRefused, ConfigError), match="may list only safetensors files"):
        reads()


@pytest.mark.parametrize("placed", [None, ["a.safetensors"], 3])
def test_an_index_that_says_nothing_is_refused(tmp_path: Path, placed: object) -> None:
    _index(tmp_path, placed)
    with pytest.raises(HubLayoutRefused, match=r"index\.json cannot be read"):
        weight_files(tmp_path)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    read = _clip(tmp_path)
    _cut(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(HubLayoutRefused, match=r"b\.safetensors cannot be read"):
        read()


def test_the_digest_follows_every_shard_and_no_file_beside_them(tmp_path: Path) -> None:
    _clip(tmp_path)
    one = weights_digest(tmp_path)
    _cut(tmp_path)
    cut = weights_digest(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "c.safetensors")
    assert weights_digest(tmp_path) == cut != one
    for name in ("a.safetensors", "b.safetensors"):
        shard = load_file(tmp_path / name)
        next(iter(shard.values())).add_(1)
        save_file(shard, tmp_path / name)
        before, cut = cut, weights_digest(tmp_path)
        assert cut != before


def test_one_file_has_its_own_sha256_with_an_index_beside_it_or_without(tmp_path: Path) -> None:
    _clip(tmp_path)
    before = weights_digest(tmp_path)
    _index(tmp_path, {"one": "a.safetensors"})
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert weights_digest(tmp_path) == before
