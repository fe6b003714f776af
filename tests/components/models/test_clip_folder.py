"""A CLIP in transformers' layout as a part: the same embeddings, and texts between its own start and end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from components.catalog import FOLDERS
from components.config import ConfigError
from components.models import hub_clip
from components.models.clip import Clip, ClipConfig
from components.models.clip_folder import read_folder

START, END = "<|startoftext|>", "<|endoftext|>"


def _tokenizer() -> tokenizers.Tokenizer:
    """Made as CLIP's is: lower case, byte-level, words marked at their end, the two specials last."""
    made = tokenizers.Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, end_of_word_suffix="</w>", show_progress=False)
    made.train_from_iterator(["a red circle", "the green square"] * 3, trainer)
    made.add_special_tokens([START, END])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    model = Clip(
        ClipConfig(
            vision="vit", image_px=16, patch_px=8, vision_width=16, vision_layers=1,
            vision_heads=2, text_width=16, text_layers=1, text_heads=2, embed_width=8,
            max_tokens=10, vocab_size=tokenizer.get_vocab_size(),
        )
    )  # fmt: skip
    hub_clip.save_pretrained(model.eval(), tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_the_folder_gives_the_clip_and_its_texts(folder: Path) -> None:
    part = read_folder(str(folder))
    assert FOLDERS["clip"](str(folder)).origin == part.origin
    bpe = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens, lengths = part.tokenizer.encode(["A red circle", "green"], 10)
    wanted = [
        [bpe.token_to_id(START), *bpe.encode(text).ids, bpe.token_to_id(END)]
        for text in ("a red circle", "green")
    ]
    assert [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)] == wanted
    assert part.tokenizer.words("a red circle") == wanted[0][1:-1]
    plain = hub_clip.from_pretrained(folder)
    with torch.no_grad():
        found = part.module.embed_texts(tokens, lengths)
        alone = plain.embed_texts(torch.tensor([wanted[0]]), torch.tensor([len(wanted[0])]))
    torch.testing.assert_close(found[:1], alone)
    assert not any(param.requires_grad for param in part.module.parameters())


def test_a_tokenizer_of_another_clip_is_refused(folder: Path) -> None:
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["added_tokens"].append({**saved["added_tokens"][-1], "id": 999, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="not of one model"):
        read_folder(str(folder))


def test_a_folder_in_shards_is_a_part_with_a_digest_of_its_own(folder: Path) -> None:
    whole = read_folder(str(folder))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for file, some in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in some}, folder / file)
    placed = {name: "ab"[number % 2] + ".safetensors" for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    cut = read_folder(str(folder))
    assert len(cut.origin.digest) == 64
    assert cut.origin.digest != whole.origin.digest
    theirs = whole.module.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in cut.module.state_dict().items())
