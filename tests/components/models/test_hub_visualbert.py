"""VisualBERT's folders in transformers' layout: written for it, read from it, and refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import VisualBertForPreTraining, VisualBertForQuestionAnswering

from components.config import ConfigError
from components.models.bert_texts import append_mask
from components.models.hub_layout import HubLayoutRefused
from components.models.hub_visualbert import (
    ANSWERING,
    PRETRAINING,
    from_pretrained,
    save_pretrained,
)
from components.models.visualbert import VisualBert, VisualBertConfig

TOKENS, LENGTHS = torch.tensor([[1, 7, 8, 9, 39, 0], [1, 10, 39, 0, 0, 0]]), torch.tensor([5, 3])
OURS = {"vision": "conv", "vision_widths": (8, 16), "image_px": 16, "max_tokens": 10}


@pytest.fixture
def model() -> VisualBert:
    torch.manual_seed(0)
    config = VisualBertConfig(
        width=32, layers=2, heads=4, positions=20, vocab_size=40, visual_segment=1,
        answers=("red", "two"), **OURS,
    )  # fmt: skip
    made = VisualBert(config)
    for param in made.parameters():
        nn.init.normal_(param, std=0.3)
    made.standardised.mean.copy_(torch.randn(16))
    made.standardised.square.copy_(made.standardised.mean**2 + torch.rand(16) + 0.5)
    return made.eval()


def _raw() -> torch.Tensor:
    return torch.randn(2, 5, 16)


def test_transformers_reads_what_was_written_and_says_the_same(model, tmp_path) -> None:
    save_pretrained(model, tmp_path)
    theirs, about = VisualBertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    raw = _raw()
    with torch.no_grad():
        wanted = model.encode(TOKENS, LENGTHS, model.standardised(raw))
        found = theirs.eval()(
            input_ids=TOKENS,
            attention_mask=(torch.arange(6) < LENGTHS[:, None]).long(),
            visual_embeds=raw,
            visual_attention_mask=torch.ones(2, 5).long(),
        )
    real = torch.arange(6) < LENGTHS[:, None]
    words = found.prediction_logits[:, :6]
    torch.testing.assert_close(
        words[real], model.bert.name_words(wanted)[real], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        found.seq_relationship_logits, model.match_logits(wanted), atol=1e-4, rtol=1e-4
    )


def test_transformers_answers_what_was_written(model, tmp_path) -> None:
    save_pretrained(model, tmp_path, ANSWERING)
    theirs, about = VisualBertForQuestionAnswering.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not about["missing_keys"]
    assert theirs.config.id2label == {0: "red", 1: "two"}
    raw = _raw()
    masked, lengths = append_mask(TOKENS, LENGTHS, 2)
    with torch.no_grad():
        wanted = model._answer_logits(TOKENS, LENGTHS, model.standardised(raw))
        state = theirs.eval().visual_bert(
            input_ids=masked,
            attention_mask=(torch.arange(7) < lengths[:, None]).long(),
            visual_embeds=raw,
            visual_attention_mask=torch.ones(2, 5).long(),
        ).last_hidden_state  # fmt: skip
        found = theirs.cls(state[range(2), lengths - 2])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_what_was_written_is_read_again_and_says_the_same(model, tmp_path) -> None:
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path, **OURS)
    raw = _raw()
    with torch.no_grad():
        one = model.encode(TOKENS, LENGTHS, model.standardised(raw))
        other = again.encode(TOKENS, LENGTHS, again.standardised(raw))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    once, twice = tmp_path / "once", tmp_path / "twice"
    save_pretrained(again, once)
    save_pretrained(from_pretrained(once, **OURS), twice)
    for file in ("config.json", "model.safetensors"):
        assert (once / file).read_bytes() == (twice / file).read_bytes()


def test_older_folders_that_hold_tied_tensors_twice_are_read(model, tmp_path) -> None:
    save_pretrained(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["cls.predictions.decoder.weight"] = model.bert.words.weight.detach().clone()
    weights["cls.predictions.decoder.bias"] = model.bert.head_bias.detach().clone()
    weights["visual_bert.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(from_pretrained(tmp_path, **OURS).bert.words.weight, model.bert.words.weight)


def _change(folder, **changes) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "bert"}, 'type "bert"'),
        ({"architectures": ["VisualBertForVisualReasoning"]}, "VisualBertForVisualReasoning"),
        ({"architectures": None}, "no architecture"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"bypass_transformer": True}, "bypass_transformer"),
        ({"intermediate_size": 100}, "intermediate_size"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "foreign"),
        ({"vocab_size": 41}, "word_embeddings"),
    ],
)
def test_a_foreign_folder_is_refused_by_name(model, tmp_path, changes: dict, said: str) -> None:
    save_pretrained(model, tmp_path)
    _change(tmp_path, **changes)
    with pytest.raises(HubLayoutRefused, match=said):
        from_pretrained(tmp_path, **OURS)


def test_a_damaged_or_empty_folder_is_refused_by_name(model, tmp_path) -> None:
    with pytest.raises(HubLayoutRefused, match=r"config\.json cannot be read"):
        from_pretrained(tmp_path / "nothing", **OURS)
    save_pretrained(model, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HubLayoutRefused, match=r"model\.safetensors cannot be read"):
        from_pretrained(tmp_path, **OURS)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(HubLayoutRefused, match=r"model\.safetensors cannot be read"):
        from_pretrained(tmp_path, **OURS)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(HubLayoutRefused, match='type "None"'):
        from_pretrained(tmp_path, **OURS)


def test_regions_of_another_width_and_settings_said_twice_are_refused(model, tmp_path) -> None:
    save_pretrained(model, tmp_path)
    with pytest.raises(ConfigError, match="regions 16 wide"):
        from_pretrained(tmp_path, **{**OURS, "vision_widths": (8, 24)})
    with pytest.raises(ConfigError, match="itself says what width"):
        from_pretrained(tmp_path, **OURS, width=64)


def test_a_head_the_model_lacks_is_not_written(tmp_path) -> None:
    config = VisualBertConfig(width=32, layers=1, heads=4, positions=20, vocab_size=40, **OURS)
    with pytest.raises(HubLayoutRefused, match="VisualBertForPreTraining"):
        save_pretrained(VisualBert(config), tmp_path / "made", ANSWERING)
    assert not (tmp_path / "made").exists()
    assert PRETRAINING == "VisualBertForPreTraining"
