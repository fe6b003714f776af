"""What only VisualBERT owes: matching pairs, regions without order, parity with transformers, answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import VisualBertConfig as TheirConfig
from transformers import VisualBertForPreTraining, VisualBertForQuestionAnswering

from components.abilities import CannotAnswer
from components.config import ConfigError
from components.data.batches import Batches, load_split
from components.data.text import Tokenizer
from components.models.bert_texts import append_mask, two_captions
from components.models.hub_visualbert import ANSWERING, from_pretrained
from components.models.parts import Origin, Part
from components.models.regions import Standardised
from components.models.text_bert import TextBert, TextBertConfig
from components.models.virtex import VirTex, VirtexConfig
from components.models.visualbert import (
    FITS,
    VisualBert,
    VisualBertConfig,
)
from components.objectives.masking import IGNORED
from components.records import Batch, Question, Row, Sample

VOCABULARY = 40
EOS = VOCABULARY - 1


def _config(**changes) -> VisualBertConfig:
    return VisualBertConfig(
        **{
            "vision": "conv", "vision_widths": (8, 16), "image_px": 16, "width": 32, "layers": 2,
            "heads": 4, "max_tokens": 10, "positions": 20, "vocab_size": VOCABULARY, "dropout": 0.0,
            **changes,
        }
    )  # fmt: skip


def _wide(model: nn.Module) -> nn.Module:
    """Weights far enough from zero that what is seen changes what is said."""
    for name, param in model.named_parameters():
        if not name.startswith("vision."):
            nn.init.normal_(param, std=0.3)
    return model.eval()


@pytest.fixture
def model() -> VisualBert:
    torch.manual_seed(0)
    return _wide(VisualBert(_config()))


def _pixels(count: int = 3) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=made, dtype=torch.uint8)


TOKENS = torch.tensor([[1, 7, 8, 9, EOS, 0], [1, 10, EOS, 0, 0, 0], [1, 11, 12, EOS, 0, 0]])
LENGTHS = torch.tensor([5, 3, 4])


def _batch(**changes) -> Batch:
    whole = {
        "pixels_BCHW": _pixels(), "tokens_BT": TOKENS, "lengths_B": LENGTHS,
        "groups_B": torch.arange(3), "keys_B": 2 * torch.arange(3), "prompts_B": torch.ones(3).long(),
        "second_BT": TOKENS[[0, 2, 2]], "second_lengths_B": LENGTHS[[0, 2, 2]],
        "second_same_B": torch.tensor([True, False, True]), **changes,
    }  # fmt: skip
    return Batch(**whole)


def _regions(model: VisualBert) -> torch.Tensor:
    return torch.randn(3, 5, model.vision.map_width)


def _part(module: nn.Module) -> Part:
    return Part(module=module, tokenizer=None, origin=Origin(kind="stage", name="made"))


# ---- invariant 1: masking (its shares are counted in tests/components/objectives/test_masking.py)


def _watch(model: VisualBert, monkeypatch) -> tuple[list, list]:
    """What is read, and the labels of hidden words, in order."""
    read, labels = [], []
    encode, view_loss = model.encode, model.view_loss

    def reading(tokens, lengths, regions, *rest, **more):
        read.append((tokens, regions))
        return encode(tokens, lengths, regions, *rest, **more)

    def learning(views, batch):
        assert views["hidden"].shape[:2] == views["labels"].shape
        labels.append(views["labels"])
        return view_loss(views, batch)

    monkeypatch.setattr(model, "encode", reading)
    monkeypatch.setattr(model, "view_loss", learning)
    return read, labels


def test_words_of_the_images_own_caption_are_hidden_and_regions_never(monkeypatch) -> None:
    torch.manual_seed(0)
    model = _wide(VisualBert(_config(mask_share=1.0)))
    read, labels = _watch(model, monkeypatch)
    model.loss(_batch())
    (words, regions), (second, same_regions) = read
    for seen in (regions, same_regions):
        assert torch.equal(seen, model.regions(_pixels()))
    # Each word of the first captions, and of these alone; the caption that is judged is read whole.
    assert (
        labels[0].tolist() == TOKENS.masked_fill((TOKENS < 6) | (TOKENS == EOS), IGNORED).tolist()
    )
    assert ((words == 2) & (labels[0] == IGNORED)).sum() == 0
    assert torch.equal(second, TOKENS[[0, 2, 2]])


def test_the_loss_of_hidden_words_does_not_depend_on_what_regions_would_be_named(
    model: VisualBert,
) -> None:
    labels = torch.full_like(TOKENS, IGNORED)
    labels[0, 2] = 8
    with torch.no_grad():
        states = model.encode(TOKENS, LENGTHS, _regions(model))
    assert states.shape[1] == TOKENS.shape[1]
    states.requires_grad_()
    model.bert.mask_loss(states, labels).backward()
    touched = states.grad.abs().sum(-1) > 0
    assert touched.nonzero().tolist() == [[0, 2]]


def test_beside_questions_words_are_learnt_from_second_captions_of_the_image_alone(
    monkeypatch,
) -> None:
    torch.manual_seed(0)
    model = _wide(VisualBert(_config(mask_share=1.0, answers=("red", "two"), most_answers=2)))
    read, labels = _watch(model, monkeypatch)
    model.loss(_batch(answers_BA=torch.eye(3)[:, :2]))
    assert (labels[0][1] == IGNORED).all()
    assert (labels[0][[0, 2]] != IGNORED).any(dim=1).all()
    assert (read[0][0] == 2)[:, 1:].any(dim=1).all()


# ---- invariant 2: matching pairs


def test_half_of_the_second_captions_are_of_another_image_and_never_of_the_same(
    tiny_shards, tiny_tokenizer
) -> None:
    spec = VisualBert(_config(image_px=16)).batch_spec()
    assert spec.second_caption
    images = load_split(tiny_shards, "train", 16)
    batches = Batches(images, spec, tiny_tokenizer, 56, seed=0)
    own = {row.key: row.sample.captions for row in images.rows}
    same = []
    for step in range(60):
        batch = batches.batch(step)
        for key, tokens, fits in zip(
            batch.keys_B.tolist(), batch.second_BT, batch.second_same_B.tolist(), strict=True
        ):
            assert (tiny_tokenizer.decode(tokens.tolist()) in own[key // 2]) == fits
            same.append(fits)
    assert sum(same) / len(same) == pytest.approx(0.5, abs=0.02)


def test_the_label_zero_says_that_a_caption_fits(model: VisualBert) -> None:
    with torch.no_grad():
        score = model.match(_pixels(), TOKENS, LENGTHS)
        logits = model.match_logits(model.encode(TOKENS, LENGTHS, model.regions(_pixels())))
    torch.testing.assert_close(score, logits.softmax(-1)[:, 0])
    assert FITS == 0
    nn.init.zeros_(model.matching.weight)
    with torch.no_grad():
        model.matching.bias.copy_(torch.tensor([5.0, -5.0]))
        fits, other = (
            model.loss(_batch(second_same_B=torch.full((3,), same))).parts["matching"]
            for same in (True, False)
        )
    assert fits < 1e-3
    assert other > 9


# ---- invariants 3 and 4: regions have no order, and are read


def test_permuting_regions_leaves_the_words_states_unchanged(model: VisualBert) -> None:
    regions, order = _regions(model), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        one = model.encode(TOKENS, LENGTHS, regions)
        other = model.encode(TOKENS, LENGTHS, regions[:, order])
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_every_region_stands_at_place_zero_in_the_configs_segment(model: VisualBert) -> None:
    regions = _regions(model)
    with torch.no_grad():
        before = model.encode(TOKENS, LENGTHS, regions)
        model.visual_places.weight[1:] = 7.0
        model.visual_segments.weight[1] = 7.0
        assert torch.equal(model.encode(TOKENS, LENGTHS, regions), before)
        model.visual_places.weight[0, :16] = 7.0
        assert not torch.allclose(model.encode(TOKENS, LENGTHS, regions), before, atol=1e-2)
    other = VisualBert(_config(visual_segment=1)).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert not torch.allclose(
            other.encode(TOKENS, LENGTHS, regions),
            model.encode(TOKENS, LENGTHS, regions),
            atol=1e-2,
        )


def test_another_image_changes_what_hidden_words_are_taken_for(model: VisualBert) -> None:
    dark, bright = (torch.full((3, 3, 16, 16), value, dtype=torch.uint8) for value in (0, 255))
    with torch.no_grad():
        one, other = (
            model.bert.name_words(model.encode(TOKENS, LENGTHS, model.regions(pixels))).softmax(-1)
            for pixels in (dark, bright)
        )
    real = torch.arange(TOKENS.shape[1]) < LENGTHS[:, None]
    assert (one - other).abs().sum(-1)[real].min() > 1e-2


def test_without_regions_it_is_the_text_bert(model: VisualBert) -> None:
    text = TextBert(
        TextBertConfig(width=32, layers=2, heads=4, max_tokens=10, positions=20, vocab_size=40)
    )
    text.bert.load_state_dict(model.bert.state_dict())
    text.eval()
    mask = torch.arange(TOKENS.shape[1]) < LENGTHS[:, None]
    with torch.no_grad():
        wanted = text.bert.run(text.bert.embed(TOKENS), mask)
        assert torch.equal(model.encode(TOKENS, LENGTHS, None), wanted)
        none = model.encode(TOKENS, LENGTHS, torch.zeros(3, 0, model.vision.map_width))
    torch.testing.assert_close(none, wanted)


# ---- invariant 5


def test_padded_regions_have_no_influence_at_all(model: VisualBert) -> None:
    regions = _regions(model)
    padded = torch.cat([regions, 1e3 * torch.randn(3, 2, regions.shape[-1])], dim=1)
    mask = torch.arange(7).expand(3, -1) < 5
    with torch.no_grad():
        one = model.encode(TOKENS, LENGTHS, padded, None, mask)
        padded[:, 5:] = -5.0
        assert torch.equal(model.encode(TOKENS, LENGTHS, padded, None, mask), one)
        alone = model.encode(TOKENS, LENGTHS, regions)
    torch.testing.assert_close(one, alone, atol=1e-5, rtol=1e-4)


# ---- invariant 6: transformers' model


def _theirs(kind: type, **changes) -> nn.Module:
    torch.manual_seed(3)
    about = TheirConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=20, visual_embedding_dim=16, pad_token_id=0,
        **changes,
    )  # fmt: skip
    theirs = kind(about)
    with torch.no_grad():
        for param in theirs.parameters():
            param.copy_(torch.randn(param.shape) * 0.2)
    theirs.tie_weights()
    return theirs.eval()


def _asked(model: VisualBert, segment: int) -> dict[str, torch.Tensor]:
    regions = _regions(model)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    return {
        "input_ids": TOKENS,
        "attention_mask": (torch.arange(TOKENS.shape[1]) < LENGTHS[:, None]).long(),
        "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 0]]).expand(3, -1),
        "visual_embeds": regions,
        "visual_attention_mask": mask,
        "visual_token_type_ids": torch.full(mask.shape, segment),
    }


@pytest.mark.parametrize("segment", [0, 1])
def test_it_equals_transformers_visualbert_on_copied_weights(tmp_path, segment: int) -> None:
    theirs = _theirs(VisualBertForPreTraining)
    theirs.save_pretrained(tmp_path)
    ours = from_pretrained(
        tmp_path, vision="conv", vision_widths=(8, 16), image_px=16, max_tokens=10, visual_segment=segment,
    )  # fmt: skip
    asked = _asked(ours, segment)
    with torch.no_grad():
        wanted = theirs(**asked)
        states = ours.encode(
            TOKENS, LENGTHS, asked["visual_embeds"], asked["token_type_ids"],
            asked["visual_attention_mask"].bool(),
        )  # fmt: skip
        words, fits = ours.bert.name_words(states), ours.match_logits(states)
    real = asked["attention_mask"].bool()
    theirs_words = wanted.prediction_logits[:, : TOKENS.shape[1]]
    torch.testing.assert_close(words[real], theirs_words[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fits, wanted.seq_relationship_logits, atol=1e-5, rtol=1e-5)


def test_answers_equal_transformers_question_answering_on_copied_weights(tmp_path) -> None:
    labels = {0: "red", 1: "blue", 2: "two"}
    theirs = _theirs(VisualBertForQuestionAnswering, id2label=labels, label2id={})
    theirs.save_pretrained(tmp_path)
    ours = from_pretrained(
        tmp_path, vision="conv", vision_widths=(8, 16), image_px=16, max_tokens=10
    )
    assert ours.config.answers == ("red", "blue", "two")
    regions = _regions(ours)
    masked, lengths = append_mask(TOKENS, LENGTHS, ours.config.mask_id)
    with torch.no_grad():
        found = ours._answer_logits(TOKENS, LENGTHS, regions)
        # Theirs counts visual tokens too unless told otherwise, and reads two before the end: one row at a time.
        for row, length in enumerate(lengths.tolist()):
            text = theirs.visual_bert(
                input_ids=masked[row : row + 1, :length],
                attention_mask=torch.ones(1, length).long(),
                visual_embeds=regions[row : row + 1],
                visual_attention_mask=torch.ones(1, 5).long(),
            ).last_hidden_state
            wanted = theirs.cls(text[0, length - 2])
            torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)
    assert ANSWERING == "VisualBertForQuestionAnswering"


# ---- texts


def test_the_mask_stands_before_the_end_and_is_where_the_answer_is_read() -> None:
    masked, lengths = append_mask(TOKENS, LENGTHS, 2)
    assert masked.tolist() == [
        [1, 7, 8, 9, 2, EOS, 0], [1, 10, 2, EOS, 0, 0, 0], [1, 11, 12, 2, EOS, 0, 0],
    ]  # fmt: skip
    assert (masked[range(3), lengths - 2] == 2).all()


def test_two_captions_make_one_text_of_two_segments() -> None:
    tokens, segments, lengths = two_captions(
        TOKENS, LENGTHS, TOKENS[[2, 0, 1]], LENGTHS[[2, 0, 1]], sep_id=5
    )
    assert tokens.tolist() == [
        [1, 7, 8, 9, 5, 11, 12, EOS], [1, 10, 5, 7, 8, 9, EOS, 0], [1, 11, 12, 5, 10, EOS, 0, 0],
    ]  # fmt: skip
    assert segments.tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0, 0],
    ]  # fmt: skip
    assert lengths.tolist() == [8, 7, 6]


def test_with_two_sentences_both_captions_are_read_at_once_and_words_of_both_learnt(
    monkeypatch,
) -> None:
    torch.manual_seed(0)
    model = _wide(VisualBert(_config(two_sentence=True, mask_share=1.0)))
    read, labels = _watch(model, monkeypatch)
    model.loss(_batch())
    assert len(read) == 1
    assert labels[0].shape[1] == 9
    assert (labels[0] != IGNORED).sum(1).tolist() == [6, 3, 4]


# ---- parts, statistics, answers


def test_it_starts_from_the_text_berts_weights_and_regions_like_words() -> None:
    text = TextBert(
        TextBertConfig(width=32, layers=2, heads=4, max_tokens=10, positions=20, vocab_size=40)
    )
    model = VisualBert(_config())
    assert torch.equal(model.visual_places.weight, model.bert.places.weight)
    model.initialise({"text": _part(text)})
    assert all(
        torch.equal(value, model.bert.state_dict()[name])
        for name, value in text.bert.state_dict().items()
    )
    assert torch.equal(model.visual_places.weight, text.bert.places.weight)
    assert torch.equal(model.visual_segments.weight, text.bert.segments.weight)
    assert model.visual_places.weight.data_ptr() != model.bert.places.weight.data_ptr()


def test_it_goes_on_from_another_visualbert_with_all_but_its_tower_its_statistics_and_answers() -> (
    None
):
    first = _wide(VisualBert(_config(answers=("red", "two"), most_answers=2)))
    first.standardised.mean.add_(3.0)
    model = VisualBert(_config(answers=("blue",), most_answers=1))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise({"text": _part(first)})
    theirs = first.state_dict()
    for name, value in model.state_dict().items():
        wanted = own if name.startswith(("vision.", "answering.", "standardised.")) else theirs
        assert torch.equal(value, wanted[name]), name
    with pytest.raises(ConfigError, match=r"inward\.weight"):
        VisualBert(_config(vision_widths=(8, 24))).initialise({"text": _part(first)})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 64}, "words.weight"),
        ({"layers": 3}, "blocks.2"),
        ({"layers": 1}, "blocks.1"),
        ({"heads": 2}, "2 heads"),
        ({"vocab_size": 50}, "head_bias"),
        ({"positions": 30}, "places.weight"),
    ],
)
def test_a_text_model_that_does_not_fit_is_refused(wrong: dict, said: str) -> None:
    sizes = {
        "width": 32,
        "layers": 2,
        "heads": 4,
        "max_tokens": 10,
        "positions": 20,
        "vocab_size": 40,
    }
    text = TextBert(TextBertConfig(**{**sizes, **wrong}))
    model = VisualBert(_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=said) as refusal:
        model.initialise({"text": _part(text)})
    assert "stage:made" in str(refusal.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ConfigError, match="starts from a TextBert"):
        model.initialise({"text": _part(nn.Linear(1, 1))})


def test_a_part_sees_for_it_and_never_changes() -> None:
    part = _part(VirTex(VirtexConfig(vision_widths=(8, 16), image_px=16, vocab_size=VOCABULARY)))
    model = VisualBert(_config(vision="part"), {"vision": part})
    before = {name: value.clone() for name, value in part.module.vision.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model.loss(_batch()).total.backward()
    optimiser.step()
    after = part.module.vision.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(ConfigError, match='needs a part "vision"'):
        VisualBert(_config(vision="part"))


def test_statistics_are_those_of_the_first_batches_in_training_and_then_stand() -> None:
    standard = Standardised(4, batches=3)
    batches = [torch.randn(2, 5, 4) * 3 + 7 for _ in range(5)]
    assert torch.equal(standard.eval()(batches[0]), batches[0])
    standard.train()
    for batch in batches:
        last = standard(batch)
    seen = torch.cat(batches[:3]).flatten(0, 1)
    torch.testing.assert_close(standard.mean, seen.mean(0))
    torch.testing.assert_close(standard.deviation, seen.std(0, correction=0))
    torch.testing.assert_close(last, (batches[4] - seen.mean(0)) / seen.std(0, correction=0))
    again = Standardised(4, batches=3).train()
    again.load_state_dict({name: value.clone() for name, value in standard.state_dict().items()})
    assert torch.equal(again(batches[3]), standard(batches[3]))
    assert torch.equal(Standardised(4, batches=0).train()(batches[0]), batches[0])


def _asking(answers: list[str]) -> Row:
    questions = tuple(Question(text="what ?", answers=(answer, "other")) for answer in answers)
    sample = Sample(
        id="0", image=b"", captions=("a",), split="train", concept="c", label="c", concept_family="c",
        origin="made", license="CC0-1.0", questions=questions,
    )  # fmt: skip
    return Row(
        key=0, sample=sample, shard="", offset_bytes=0, size_bytes=0, sha256="", pixels_sha256="0",
        width_px=16, height_px=16,
    )  # fmt: skip


def test_the_commonest_best_answers_of_training_are_the_ones_it_can_give() -> None:
    tokenizer = Tokenizer.train(["a red circle"], 300)
    rows = [_asking(["red", "two", "red"]), _asking(["two", "blue", "red"])]
    config = _config(most_answers=2).fitted(rows, tokenizer)
    assert config.answers == ("red", "two")
    # Of what ten people said, not the first one's word counts.
    people = replace(
        rows[0].sample, questions=(Question(text="?", answers=("odd",) + ("two",) * 9),) * 3
    )
    crowd = [*rows, replace(rows[0], sample=people)]
    assert _config(most_answers=1).fitted(crowd, tokenizer).answers == ("two",)
    assert config.vocab_size == tokenizer.vocab_size
    assert _config().fitted(rows, tokenizer).answers == ()
    spec = VisualBert(config).batch_spec()
    assert spec.answers == ("red", "two")


def test_questions_are_answered_from_the_image_with_known_answers() -> None:
    tokenizer = Tokenizer.train(["a red circle what color is it ?"], 300)
    torch.manual_seed(0)
    answers = ("red", "blue")
    config = _config(
        answers=answers, most_answers=2, vocab_size=tokenizer.vocab_size, max_tokens=16
    )
    model = VisualBert(config).train()
    pixels = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    pixels[0, 0], pixels[1, 2] = 200, 200
    tokens, lengths = tokenizer.encode(["what color is it ?"] * 2, 16)
    captions, caption_lengths = tokenizer.encode(["a red circle"] * 2, 16)
    batch = _batch(
        pixels_BCHW=pixels, tokens_BT=tokens, lengths_B=lengths, second_BT=captions,
        second_lengths_B=caption_lengths, second_same_B=torch.tensor([True, False]),
        answers_BA=torch.eye(2), groups_B=torch.arange(2), keys_B=torch.arange(2),
        prompts_B=torch.ones(2).long(),
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.total.backward()
        optimiser.step()
    assert set(loss.parts) == {"words", "matching", "answers"}
    assert loss.parts["answers"] < 0.2
    model.eval()
    with torch.no_grad():
        assert model.answer(pixels, ["what color is it ?"] * 2, tokenizer) == ["red", "blue"]
        assert model.answer(pixels[1:], ["what color is it ?"], tokenizer) == ["blue"]


def test_a_model_without_answers_says_so(model: VisualBert) -> None:
    with pytest.raises(CannotAnswer, match="most_answers"):
        model.answer(_pixels(1), ["what ?"], Tokenizer.train(["a"], 300))


def test_the_pooler_learns(model: VisualBert) -> None:
    grouped = {id(param) for group in model.param_groups() for param in group["params"]}
    assert id(model.pooler.weight) in grouped
    model.loss(_batch()).total.backward()
    assert model.pooler.weight.grad.any()


def test_the_papers_preset_is_bert_base_with_a_visual_embedding() -> None:
    """The paper gives no count; BERT-Base has 110 M, and transformers' class of these sizes is held against ours."""
    with torch.device("meta"):
        ours = VisualBert(VisualBertConfig.paper())
        theirs = VisualBertForPreTraining(TheirConfig(visual_embedding_dim=2048))
    count = sum(p.numel() for name, p in ours.named_parameters() if not name.startswith("vision."))
    wanted = sum(p.numel() for p in theirs.parameters())
    assert count == wanted
    assert count == pytest.approx(110e6 + 2048 * 768, rel=0.02)
    assert ours.vision.map_tokens == 100


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"two_sentence": True, "max_tokens": 11}, "raise positions"),
        ({"max_tokens": 20}, "raise positions"),
        ({"two_sentence": True, "most_answers": 3}, "most_answers to 0"),
        ({"width": 30}, "divides it"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)
