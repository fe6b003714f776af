"""EfficientNet by factors: the published sizes, and stochastic depth."""

from __future__ import annotations

import pytest
import torch

from components.models.efficientnet import Block, EfficientNet, channels


@pytest.mark.parametrize(
    ("width", "depth", "published"),
    [
        # Published sizes with the last convolution (320 w -> 1280 w, and its norm) and the classifier taken off.
        (1.0, 1.0, 5_288_548 - (320 * 1280 + 2 * 1280) - 1_281_000),
        (2.0, 3.1, 66_347_960 - (640 * 2560 + 2 * 2560) - 2_561_000),
        (4.3, 5.3, 480.3e6 - (1376 * 5504 + 2 * 5504) - 5_505_000),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    width: float, depth: float, published: float
) -> None:
    with torch.device("meta"):
        tower = EfficientNet(width=width, depth=depth)
    count = sum(param.numel() for param in tower.parameters())
    assert count == pytest.approx(published, rel=0.001)


def test_channels_are_multiples_of_eight_and_hardly_less_than_asked() -> None:
    for base in (16, 24, 40, 80, 112, 192, 320):
        for width in (0.25, 0.5, 1.0, 1.4, 2.0, 4.3):
            found = channels(base, width)
            assert found % 8 == 0
            assert found >= 0.9 * base * width


@pytest.mark.parametrize("side", [32, 64, 96])
def test_the_map_has_as_many_positions_as_it_says(side: int) -> None:
    tower = EfficientNet(width=0.25, depth=0.34).eval()
    map_BND, pooled_BD = tower(torch.randn(2, 3, side, side))
    assert map_BND.shape == (2, tower.map_tokens(side), tower.map_width)
    assert pooled_BD.shape == (2, tower.pooled_width)


def test_stochastic_depth_drops_whole_images_in_training_alone_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = Block(8, 8, kernel=3, stride=1, expand=1, first=False, square=False, drop=0.25)
    ones = torch.ones(4000, 8, 2, 2)
    kept = block._kept(ones)
    rows = kept.flatten(1)
    assert ((rows == 0).all(dim=1) | (rows == 1 / 0.75).all(dim=1)).all()
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(block.eval()._kept(ones), ones)
