"""A language model read from a folder that transformers wrote is that model, tokenizer and all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from components.abilities import LanguageModel
from components.config import ConfigError
from components.data.text import Tokenizer
from components.models.causal_lm import CausalLm, CausalLmConfig, require_fit
from components.models.lm_folder import read_folder, read_model
from components.models.lm_layouts import LAYOUTS
from components.models.parts import Part

CAPTIONS = ["A red circle at the top", "the circle is red", "<|end|> of a circle"] * 3
ENTRIES = 300


def _bpe() -> Bpe:
    """As GPT-2's: one special, which is also what stands before each text."""
    bpe = Bpe(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES,
        initial_alphabet=alphabet,
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(CAPTIONS, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    return bpe


@pytest.fixture(params=sorted(LAYOUTS))
def lm(request) -> CausalLm:
    torch.manual_seed(0)
    made = CausalLm(
        CausalLmConfig(
            layout=request.param, width=32, layers=2, heads=4, positions=24, max_tokens=16,
            vocab_size=ENTRIES, bos_id=0, eos_id=0, pad_id=0,
        )
    )  # fmt: skip
    for param in made.parameters():
        torch.nn.init.normal_(param, std=0.2)
    return made.eval()


@pytest.fixture
def folder(lm: CausalLm, tmp_path: Path) -> Path:
    lm.model.save_pretrained(tmp_path)
    _bpe().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@torch.no_grad()
def _logits(lm: CausalLm, tokens: Tensor) -> Tensor:
    return lm.logits(lm.run(lm.embed(tokens))[0])


def test_a_folder_gives_its_model_frozen_and_the_tokenizer_it_reads_with(
    lm: CausalLm, folder: Path
) -> None:
    part = read_folder(str(folder))
    assert isinstance(part, Part)
    assert isinstance(part.module, LanguageModel)
    require_fit(part.module, part.tokenizer)
    tokens, _ = part.tokenizer.encode(["A red circle"], 16)
    assert torch.equal(_logits(part.module, tokens), _logits(lm, tokens))
    assert not part.module.training
    assert not any(param.requires_grad for param in part.module.parameters())
    assert part.origin.kind == "folder"
    assert len(part.origin.digest) == 64
    assert read_folder(str(folder)).origin == part.origin


def test_its_tokens_are_those_of_the_file_and_no_caption_spells_a_special(folder: Path) -> None:
    tokenizer, theirs = read_folder(str(folder)).tokenizer, _bpe()
    for caption in CAPTIONS[:2]:
        wanted = theirs.encode(f" {caption}", add_special_tokens=False).ids
        assert tokenizer.words(caption) == wanted
    assert 0 not in tokenizer.words("<|end|>")
    assert tokenizer.vocab_size == theirs.get_vocab_size()
    tokenizer.save(folder / "saved.json")
    assert Tokenizer.load(folder / "saved.json").digest == tokenizer.digest


def test_the_config_it_is_read_as_builds_the_same_model(folder: Path) -> None:
    read = read_model(folder)
    rebuilt = CausalLm(CausalLmConfig(**read.config.to_dict()))
    rebuilt.load_state_dict(read.state_dict())
    tokens = torch.tensor([[0, 5, 9, 33]])
    assert torch.equal(_logits(rebuilt.eval(), tokens), _logits(read, tokens))
    assert (read.bos_id, read.eos_id, read.pad_id) == (0, 0, 0)


def test_changed_weights_have_another_digest(lm: CausalLm, folder: Path) -> None:
    before = read_folder(str(folder)).origin.digest
    with torch.no_grad():
        next(lm.parameters())[0, 0] += 1
    lm.model.save_pretrained(folder)
    assert read_folder(str(folder)).origin.digest != before


def test_a_folder_of_something_else_is_refused_with_what_it_needs(
    lm: CausalLm, folder: Path
) -> None:
    (folder / "model.safetensors").rename(folder / "kept")
    torch.save(lm.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="of a known layout and model"):
        read_folder(str(folder))
    (folder / "kept").rename(folder / "model.safetensors")
    tokenizer = folder / "tokenizer.json"
    for damage in ("", "{}", tokenizer.read_text().replace('"BPE"', '"Unigram"')):
        tokenizer.write_text(damage)
        with pytest.raises(ConfigError, match="must be a byte-level BPE"):
            read_folder(str(folder))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="No language model layout"):
        read_folder(str(folder))
    with pytest.raises(ConfigError, match="holds no language model"):
        read_folder(str(folder / "nothing"))


def test_a_tokenizer_larger_than_its_model_is_refused(tmp_path: Path) -> None:
    small = CausalLmConfig(width=32, layers=1, vocab_size=200, bos_id=0, eos_id=0, pad_id=0)
    CausalLm(small).model.save_pretrained(tmp_path)
    _bpe().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="not of one model"):
        read_folder(str(tmp_path))
