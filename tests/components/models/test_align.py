"""What only ALIGN owes: its invariants (the filter's stand in tests/components/data), its sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.abilities import Embeds, Learns, TextEncoder
from components.config import ConfigError
from components.models.align import LEAST_TEMPERATURE, Align, AlignConfig
from components.objectives.contrastive import info_nce
from components.records import Batch

VOCABULARY = 40
EOS = VOCABULARY - 1


def _config(**changes) -> AlignConfig:
    return AlignConfig(
        **{
            "image_px": 32, "text_width": 32, "text_layers": 2, "max_tokens": 12,
            "positions": 16, "vocab_size": VOCABULARY, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def model() -> Align:
    torch.manual_seed(0)
    return Align(_config()).eval()


def _batch(rows: int = 6, **changes) -> Batch:
    made = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 10, (rows,), generator=made)
    tokens = torch.randint(2, EOS, (rows, 12), generator=made)
    tokens[:, 0] = 1
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[length - 1] = EOS
        row[length:] = 0
    whole = {
        "pixels_BCHW": torch.randint(0, 256, (rows, 3, 32, 32), generator=made, dtype=torch.uint8),
        "tokens_BT": tokens,
        "lengths_B": lengths,
        "groups_B": torch.arange(rows),
        "keys_B": 2 * torch.arange(rows),
        "prompts_B": torch.ones(rows, dtype=torch.long),
    }
    return Batch(**{**whole, **changes})


def _embedded(model: Align, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return model.embed_images(batch.pixels_BCHW), model.embed_texts(
        batch.tokens_BT, batch.lengths_B
    )


def test_the_family_has_its_abilities(model: Align) -> None:
    for ability in (Learns, Embeds, TextEncoder):
        assert isinstance(model, ability)


def test_the_loss_is_pytorchs_smoothed_cross_entropy_both_ways(model: Align) -> None:
    batch = _batch()
    image, text = _embedded(model, batch)
    logits, own = image @ text.T / model.temperature, torch.arange(6)
    wanted = (
        F.cross_entropy(logits, own, label_smoothing=0.1)
        + F.cross_entropy(logits.T, own, label_smoothing=0.1)
    ) / 2
    loss = model.loss(batch)
    torch.testing.assert_close(loss.total, wanted)
    plain = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(loss.parts["contrastive"], plain.detach())
    assert loss.parts["temperature"].item() == pytest.approx(0.07)


def test_without_smoothing_and_at_one_over_the_scale_it_is_clips_loss_exactly() -> None:
    torch.manual_seed(0)
    model = Align(_config(smoothing=0.0, temperature=0.0625)).eval()
    batch = _batch()
    image, text = _embedded(model, batch)
    assert model.loss(batch).total.item() == info_nce(image, text, 16.0, batch.groups_B).item()


def test_the_temperature_is_learnt_as_it_is(model: Align) -> None:
    """Divided by, not exponentiated: its gradient is that of the plain quotient, and not zero."""
    batch = _batch()
    model.loss(batch).total.backward()
    found = model.temperature.grad.item()
    image, text = (side.detach() for side in _embedded(model, batch))

    def at(temperature: float) -> float:
        logits, own = (image @ text.T).double() / temperature, torch.arange(6)
        sides = [F.cross_entropy(side, own, label_smoothing=0.1) for side in (logits, logits.T)]
        return (sum(sides) / 2).item()

    assert found != 0
    assert found == pytest.approx((at(0.07 + 1e-6) - at(0.07 - 1e-6)) / 2e-6, rel=1e-3)


def test_the_temperature_stays_positive_under_an_adversarial_rate(model: Align) -> None:
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.5)
    lowest = float("inf")
    for _ in range(100):
        optimiser.zero_grad()
        # An adversary: whatever the loss wants, the step makes the temperature smaller.
        model.temperature.grad = torch.ones_like(model.temperature)
        optimiser.step()
        model.after_step()
        lowest = min(lowest, model.temperature.item())
    assert lowest == pytest.approx(LEAST_TEMPERATURE)
    assert torch.isfinite(model.loss(_batch()).total)


def test_the_image_path_has_no_parameter_behind_the_pooled_features(model: Align) -> None:
    batch = _batch()
    _, pooled = model.vision.encode(batch.pixels_BCHW)
    assert torch.equal(model.embed_images(batch.pixels_BCHW), F.normalize(pooled, dim=-1))
    assert model.vision.pooled_width == model.projection.out_features == 80
    outside = [name for name, _ in model.named_parameters() if not name.startswith("vision.tower.")]
    assert all(name.startswith(("text.", "projection.", "temperature")) for name in outside)
    # Nor is there one in the tower: its last layers are a norm of the block's own width.
    assert isinstance(model.vision.tower.blocks[-1].narrow[1], nn.BatchNorm2d)


def test_doubles_of_a_text_are_no_negatives(model: Align) -> None:
    tokens, lengths = _batch().tokens_BT.clone(), _batch().lengths_B.clone()
    tokens[4], lengths[4] = tokens[1], lengths[1]
    batch = _batch(tokens_BT=tokens, lengths_B=lengths, groups_B=torch.tensor([0, 1, 2, 3, 1, 5]))
    image, text = _embedded(model, batch)
    logits, rows = image @ text.T / model.temperature, []
    for side in (logits, logits.T):
        for row in range(6):
            kept = [at for at in range(6) if at == row or {at, row} != {1, 4}]
            own = torch.tensor([kept.index(row)])
            rows.append(F.cross_entropy(side[row, kept][None], own, label_smoothing=0.1))
    torch.testing.assert_close(model.loss(batch).total, torch.stack(rows).mean())


def test_text_is_read_both_ways_and_padding_by_nobody(model: Align) -> None:
    batch = _batch()
    feature = model.encode_texts(batch.tokens_BT, batch.lengths_B)
    changed, padded = batch.tokens_BT.clone(), batch.tokens_BT.clone()
    for row, length in enumerate(batch.lengths_B.tolist()):
        changed[row, length - 2] = 2 + changed[row, length - 2] % 30
        padded[row, length:] = 9
    assert ((model.encode_texts(changed, batch.lengths_B) - feature).abs().amax(dim=1) > 1e-5).all()
    torch.testing.assert_close(model.encode_texts(padded, batch.lengths_B), feature)


def test_text_is_the_first_tokens_raw_state(model: Align) -> None:
    batch = _batch(1)
    tokens = batch.tokens_BT[:, : int(batch.lengths_B[0])]
    states = model.text.run(model.text.embed(tokens))
    torch.testing.assert_close(
        model.encode_texts(tokens, batch.lengths_B), model.projection(states[:, 0])
    )
    assert model.projection.bias is not None


def test_a_batch_of_one_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    model = Align(_config(smoothing=0.0)).eval()
    assert model.loss(_batch(1)).total.item() == 0.0


def test_the_temperature_does_not_decay(model: Align) -> None:
    groups = {group["name"]: group for group in model.param_groups()}
    assert any(param is model.temperature for param in groups["rest"]["params"])
    assert not groups["rest"]["weight_decay"]
    assert groups["matrices"]["weight_decay"]


def test_the_open_variant_has_its_published_number_of_parameters() -> None:
    """kakaobrain/align-base: 172 M, the tanh pooler that nobody reads among them."""
    with torch.device("meta"):
        model = Align(AlignConfig.small())
    pooler = 768 * 768 + 768
    assert sum(param.numel() for param in model.parameters()) + pooler == pytest.approx(
        172.1e6, rel=0.005
    )


def test_the_papers_preset_has_its_two_published_towers() -> None:
    """The paper counts no parameters of the whole; its towers were published with 480 M and 340 M."""
    with torch.device("meta"):
        model = Align(AlignConfig.paper())
    vision = sum(param.numel() for param in model.vision.parameters())
    # EfficientNet-L2 without its last convolution and classifier.
    assert vision == pytest.approx(480.3e6 - 7.58e6 - 5.5e6, rel=0.02)
    # BERT-Large's blocks; the vocabulary is ALIGN's own of 100,000 and not BERT's.
    blocks = sum(param.numel() for param in model.text.blocks.parameters())
    assert blocks == pytest.approx(335.1e6 - (30_522 + 512 + 2) * 1024 - 1024**2, rel=0.001)
    assert model.vision.pooled_width == 1376


def test_the_tiny_preset_is_as_large_as_the_prototype() -> None:
    count = sum(param.numel() for param in Align(AlignConfig.tiny()).parameters())
    assert count == pytest.approx(0.80e6, rel=0.07)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"smoothing": 1.0}, r"smoothing=1.0 is not in \[0, 1\)"),
        ({"temperature": 0.001}, r"temperature=0.001 is below 0.01"),
        ({"text_width": 30}, "divides it"),
        ({"max_tokens": 65, "positions": 64}, "raise positions"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)
