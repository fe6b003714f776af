"""The stage "mlm_text": BERT as transformers has it, and what only it owes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig as TheirConfig
from transformers import BertForMaskedLM

from components.config import ConfigError
from components.models.text_bert import TextBert, TextBertConfig, TextTooLong, hide, real
from components.objectives.masking import IGNORED
from components.records import Batch

VOCABULARY = 40
EOS = VOCABULARY - 1


def _config(**changes) -> TextBertConfig:
    return TextBertConfig(
        **{
            "width": 32, "layers": 2, "heads": 4, "max_tokens": 10, "positions": 20,
            "vocab_size": VOCABULARY, "dropout": 0.0, **changes,
        }
    )  # fmt: skip


def _wide(model: nn.Module) -> nn.Module:
    for param in model.parameters():
        nn.init.normal_(param, std=0.3)
    return model.eval()


@pytest.fixture
def model() -> TextBert:
    torch.manual_seed(0)
    return _wide(TextBert(_config()))


TOKENS = torch.tensor([[1, 7, 8, 9, EOS, 0], [1, 10, EOS, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3])


def test_it_equals_transformers_bert_on_copied_weights(model: TextBert) -> None:
    theirs = _wide(
        BertForMaskedLM(
            TheirConfig(
                vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                intermediate_size=128, max_position_embeddings=20, pad_token_id=0,
            )
        )
    )  # fmt: skip
    _copy(theirs, model)
    with torch.no_grad():
        mask = real(TOKENS, LENGTHS)
        wanted = theirs(TOKENS, attention_mask=mask.long()).logits
        found = model.bert.name_words(model.bert.run(model.bert.embed(TOKENS), mask))
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=1e-5)


def _copy(theirs: BertForMaskedLM, model: TextBert) -> None:
    named, ours, bert = theirs.state_dict(), model.state_dict(), "bert.embeddings."
    pairs = {
        "bert.words.weight": f"{bert}word_embeddings.weight",
        "bert.places.weight": f"{bert}position_embeddings.weight",
        "bert.segments.weight": f"{bert}token_type_embeddings.weight",
        "bert.head_bias": "cls.predictions.bias",
    }
    both = {"bert.norm": f"{bert}LayerNorm"}
    both |= {"bert.head.0": "cls.predictions.transform.dense"}
    both |= {"bert.head.2": "cls.predictions.transform.LayerNorm"}
    for number in range(2):
        layer, block = f"bert.encoder.layer.{number}.", f"bert.blocks.{number}."
        both |= {
            f"{block}attention.outward": f"{layer}attention.output.dense",
            f"{block}norm_attention": f"{layer}attention.output.LayerNorm",
            f"{block}layers.0": f"{layer}intermediate.dense",
            f"{block}layers.2": f"{layer}output.dense",
            f"{block}norm_layers": f"{layer}output.LayerNorm",
        }
        for kind in ("weight", "bias"):
            parts = [
                named[f"{layer}attention.self.{part}.{kind}"] for part in ("query", "key", "value")
            ]
            ours[f"{block}attention.inward.{kind}"].copy_(torch.cat(parts))
    pairs |= {
        f"{our}.{k}": f"{their}.{k}" for our, their in both.items() for k in ("weight", "bias")
    }
    for our, their in pairs.items():
        ours[our].copy_(named[their])
    assert len(pairs) + 2 * 2 == len(ours)


def test_padding_changes_neither_states_nor_the_pooled_text(model: TextBert) -> None:
    with torch.no_grad():
        both = model.encode_texts(TOKENS, LENGTHS)
        alone = model.encode_texts(TOKENS[1:, :3], LENGTHS[1:])
    torch.testing.assert_close(both[1:], alone)
    assert both.shape == (2, 32)
    assert not torch.allclose(both.norm(dim=-1), torch.ones(2), atol=1e-2)


def test_specials_and_the_end_are_never_hidden() -> None:
    tokens = torch.arange(VOCABULARY).repeat(50, 1)
    _, labels = hide(_config(mask_share=1.0), tokens)
    assert (labels[:, :6] == IGNORED).all()
    assert (labels[:, EOS] == IGNORED).all()
    assert (labels[:, 6:EOS] != IGNORED).all()


def test_specials_are_those_of_the_tokenizer(tiny_tokenizer) -> None:
    fitted = TextBertConfig.paper().fitted((), tiny_tokenizer)
    assert (fitted.mask_id, fitted.first_word_id) == (2, 6)
    assert fitted.vocab_size == tiny_tokenizer.vocab_size


def test_it_learns_the_words_of_a_repeated_batch() -> None:
    torch.manual_seed(0)
    model = TextBert(_config(mask_share=0.4)).train()
    batch = Batch(
        pixels_BCHW=torch.zeros(2, 3, 0, 0, dtype=torch.uint8), tokens_BT=TOKENS, lengths_B=LENGTHS,
        groups_B=torch.arange(2), keys_B=torch.arange(2), prompts_B=torch.ones(2).long(),
    )  # fmt: skip
    batch = Batch(
        **{
            name: value.repeat_interleave(16, 0)
            for name, value in vars(batch).items()
            if value is not None
        }
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.total.backward()
        optimiser.step()
        losses.append(loss.parts["words"].item())
    assert sum(losses[-5:]) / 5 < 0.35 * losses[0]


def test_a_text_past_the_last_position_is_refused(model: TextBert) -> None:
    with pytest.raises(TextTooLong, match="20 positions"):
        model.bert.embed(torch.ones(1, 21).long())


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"width": 30}, "divides it"),
        ({"dropout": 1.0}, "BERT has 0.1"),
        ({"mask_share": 0.0}, "0.15"),
        ({"max_tokens": 30}, "raise positions"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)


def test_the_papers_preset_is_bert_base() -> None:
    """110 M parameters as published; 109.5 M without the pooler, which nothing here trains, but with its word head."""
    with torch.device("meta"):
        model = TextBert(TextBertConfig.paper())
    assert sum(param.numel() for param in model.parameters()) == pytest.approx(110e6, rel=0.02)
