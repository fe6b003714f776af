"""The probe is measured on known concepts, beside what needs no features, and reads nothing under test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from components.data.batches import SplitImages, load_split
from components.evaluation import probing
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.models.virtex import VirTex, VirtexConfig

NAME = probing.NAME
COLUMNS = {"", "image_blind/", "chance/", "most_frequent/", "nearest_pixels/"}


class Histograms:
    """Sees how many pixels have which colour, wherever they stand: enough to tell the drawings apart."""

    def image_features(self, pixels_BCHW, keys_B=None):
        bins_BCP = (pixels_BCHW // 32).flatten(2).long()
        return one_hot(bins_BCP, 8).sum(dim=2).flatten(1).float()


@pytest.fixture
def subject(tiny_shards):
    """`subject("test")`: the test drawings under a probe of histograms."""

    def make(split: str, model=None, **changes) -> Subject:
        splits = {name: load_split(tiny_shards, name, 32) for name in {"train", "val", split}}
        given = {
            "model": model or Histograms(),
            "tokenizer": None,
            "images": splits[split],
            "train": splits["train"],
            "val": splits["val"],
            "plan": EvaluationPlan(),
        }
        return Subject(**{**given, **changes})

    return make


def test_what_features_hold_is_found_and_every_control_stands_beside_it(subject) -> None:
    values = probing.probing(subject("test"))
    assert set(values) == {column + NAME for column in COLUMNS}
    assert values[NAME] >= 0.8
    assert values[f"chance/{NAME}"] == 1 / 14
    assert values[f"most_frequent/{NAME}"] == 1 / 14
    assert values[f"image_blind/{NAME}"] < 0.3
    assert 0 <= values[f"nearest_pixels/{NAME}"] <= 1


def test_a_split_of_unseen_concepts_is_not_measured(subject) -> None:
    assert probing.probing(subject("test_concept")) == {}


def test_images_of_other_concepts_are_left_out(subject) -> None:
    whole = subject("test")
    rows = [
        replace(row, sample=replace(row.sample, concept="never seen")) if at < 5 else row
        for at, row in enumerate(whole.images.rows)
    ]
    mixed = replace(whole, images=replace(whole.images, rows=rows))
    kept = list(range(5, len(rows)))
    fewer = SplitImages(
        split="test",
        rows=[whole.images.rows[at] for at in kept],
        pixels_NCHW=whole.images.pixels_NCHW[kept],
    )
    assert probing.probing(mixed) == probing.probing(replace(whole, images=fewer))


def test_the_split_under_measurement_chooses_nothing(subject, monkeypatch) -> None:
    """On `val` itself, and without a `val`, the penalty is chosen on training images."""
    read = []
    seen = probing.image_features

    def spy(model, images, chosen):
        read.append(images.split)
        return seen(model, images, chosen)

    monkeypatch.setattr(probing, "image_features", spy)
    for given in (subject("val"), subject("test", val=None)):
        read.clear()
        values = probing.probing(given)
        assert values[NAME] > values[f"chance/{NAME}"]
        assert sorted(read) == sorted(["train", given.images.split])


def test_only_the_commonest_concepts_are_classes(subject, monkeypatch) -> None:
    monkeypatch.setattr(probing, "CLASSES", 3)
    given = subject("test")
    assert len(probing.commonest(given.train)) == 3
    assert probing.probing(given)[f"chance/{NAME}"] == 1 / 3


def test_virtex_offers_its_averaged_map(subject) -> None:
    torch.manual_seed(0)
    model = VirTex(VirtexConfig(image_px=32, vision_widths=(8, 16))).eval()
    given = subject("test", model)
    pixels = given.images.pixels_NCHW
    map_BND, _ = model.vision.encode(pixels)
    found = model.image_features(pixels)
    torch.testing.assert_close(found, map_BND.mean(dim=1))
    assert not probing.image_features(model, given.images, torch.arange(3)).requires_grad
    assert set(probing.probing(given)) == {column + NAME for column in COLUMNS}
