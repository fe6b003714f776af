"""What every source must do, over the catalog; a source whose raw data is not here is left out by name."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice

import pytest

from components.catalog import SOURCES
from components.data.sources.packages import PackagesMissing
from components.data.transforms import decode, read_picture
from components.records import SPLITS, Sample

# Its filter counts over all pictures before it yields the first: a minute, where its packages are.
SLOW = ("openclipart",)
PARAMS = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(SOURCES)
]


@pytest.fixture(scope="module", params=PARAMS)
def samples(request: pytest.FixtureRequest) -> list[Sample]:
    try:
        return list(islice(SOURCES[request.param](), 700))
    except PackagesMissing as missing:
        pytest.skip(str(missing))


def test_ids_are_unique(samples: list[Sample]) -> None:
    assert len({sample.id for sample in samples}) == len(samples) > 0


def test_every_sample_says_what_it_shows_and_under_which_licence(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.captions
        assert all(caption == caption.strip() != "" for caption in sample.captions)
        assert len(set(sample.captions)) == len(sample.captions)
        assert sample.split in SPLITS
        assert all((sample.license, sample.label, sample.concept, sample.origin))


def test_a_concept_has_one_label_and_one_family(samples: list[Sample]) -> None:
    facts = defaultdict(set)
    for sample in samples:
        facts[sample.concept].add((sample.label, sample.concept_family))
    assert [concept for concept, found in facts.items() if len(found) > 1] == []


def test_a_family_is_never_divided_between_known_and_held_out(samples: list[Sample]) -> None:
    homes = defaultdict(set)
    for sample in samples:
        home = sample.split if sample.split.endswith("_concept") else "known"
        homes[sample.concept_family].add(home)
    assert [family for family, found in homes.items() if len(found) > 1] == []


def test_every_split_a_night_needs_is_there(samples: list[Sample]) -> None:
    if samples[0].origin == "noto":
        # Emoji come set by set, and a slice may hold one set alone: splits are counted in test_emoji_source.
        assert {sample.split for sample in samples} >= {"test", "test_concept", "val_concept"}
    elif samples[0].origin in ("shapes_open", "shapes_views"):
        # A detector's novel boxes are held back here, and no concept.
        assert {sample.split for sample in samples} == {"train", "val", "test"}
    else:
        assert {sample.split for sample in samples} >= {"train", "val", "test", "test_concept"}


def test_images_decode_and_boxes_lie_within(samples: list[Sample]) -> None:
    for sample in samples[::50]:
        pixels = decode(sample.image, 32)
        assert pixels.shape == (3, 32, 32)
        assert pixels.min() < pixels.max()
        width_px, height_px = read_picture(sample.image).size
        for box in sample.boxes:
            assert 0 <= box.left_px < box.right_px <= width_px
            assert 0 <= box.top_px < box.bottom_px <= height_px


def test_a_source_yields_the_same_again(
    samples: list[Sample], request: pytest.FixtureRequest
) -> None:
    source = SOURCES[request.node.callspec.params["samples"]]
    assert list(islice(source(), 40)) == samples[:40]
